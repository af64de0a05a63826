"""What onnxruntime.capi.build_and_package_info has."""

from ortlite.api import environment

__all__ = ["__version__", "package_name"]

package_name = "onnxruntime"
__version__ = environment.API_VERSION
