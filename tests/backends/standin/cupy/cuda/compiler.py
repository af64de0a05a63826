"""What NVRTC says."""


class CompileException(Exception):
    pass
