"""The version of TorchServe whose behaviour these modules have."""

__version__ = "0.12.0"
