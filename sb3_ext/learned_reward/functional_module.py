"""A module's methods as functions of its parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sb3_ext.common.optimizers import Params


class FunctionalModule:
    """A module's methods as functions of its trainable parameters, by name.

    This is ``torch.func.functional_call`` for any method. The places of the parameters are looked up once, because the
    methods are called twice for each minibatch.

    Args:
        module: the module; parameters that do not require a gradient keep their values.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.params: Params = {name: value for name, value in module.named_parameters() if value.requires_grad}
        modules = dict(module.named_modules())
        places = {name: name.rpartition(".") for name in self.params}
        self._places: dict[str, tuple[dict[str, Any], str]] = {
            name: (modules[module]._parameters, last) for name, (module, _, last) in places.items()
        }

    def at(self, params: Params, method: str, *args: Any) -> Any:
        """Return ``module.method(*args)`` with ``params`` in place of the module's own parameters."""
        self._set(params)
        try:
            return getattr(self.module, method)(*args)
        finally:
            self._set(self.params)

    def _set(self, params: dict[str, Tensor]) -> None:
        for name, value in params.items():
            place, last = self._places[name]
            place[last] = value
