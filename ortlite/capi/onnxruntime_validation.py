"""What onnxruntime.capi.onnxruntime_validation has: checks of the system and of the package."""

from ortlite.capi.build_and_package_info import __version__, package_name

__all__ = ["check_distro_info", "check_training_module", "get_package_name_and_version_info"]


def check_distro_info() -> None:
    """Nothing to check: there is no compiled code that asks for a system."""


def get_package_name_and_version_info() -> tuple[str, str, str]:
    """The name, the version, and the version of CUDA: "", for nothing is built with one."""
    return package_name, __version__, ""


def check_training_module() -> tuple[bool, str, str, str]:
    """Whether there is an ORTModule (there is none), and what `get_package_name_and_version_info` says."""
    return False, *get_package_name_and_version_info()
