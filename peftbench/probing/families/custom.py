"""A probe of the user's own: any classifier with scikit-learn's methods, named by its import path.

    sklearn.svm.SVC        sklearn.svm.SVC(C=10, kernel='rbf')        my_module:MyClassifier(alpha=1)

Arguments are literals by keyword; they are read, never evaluated as code.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

from peftbench.errors import ConfigError
from peftbench.probing.families.family import Candidate, Events, Features, Options
from peftbench.probing.families.wrapping import Preparation, fit_estimator
from peftbench.protocol.provenance import versions
from stores.keys import file_digest

EXAMPLE = "sklearn.svm.SVC(C=10, kernel='rbf')"


class CustomFamily(NamedTuple):
    """One classifier with one setting; a `Family`.

    Attributes:
        text: as the user wrote it.
        kind: the class.
        arguments: its keyword arguments, as given.
    """

    text: str
    kind: type[Any]
    arguments: Mapping[str, Any]

    @property
    def path(self) -> bool:
        """One candidate is no path."""
        return False

    @property
    def source(self) -> dict[str, str]:
        """What decides its answers besides its name: of it and its bases, versions of packages and digests of files."""
        found: dict[str, str] = {}
        known = _distributions()
        for each in self.kind.__mro__:
            path = getattr(inspect.getmodule(each), "__file__", None)
            package = each.__module__.partition(".")[0]
            if package in known:
                found |= versions(known[package])
            elif path and Path(path).is_file():
                found[each.__module__] = file_digest(Path(path))
        return found

    def candidates(self, features: Features, event: Events, options: Options) -> Iterator[Candidate]:
        """See `Family`.

        Raises:
            ProbeError: it cannot be fitted to these features.
        """
        preparation = Preparation.fit(features, options.scaling)
        model = fit_estimator(self.text, self.build(options), preparation, features, event)
        yield Candidate({"estimator": self.text}, model)

    def build(self, options: Options) -> Any:
        """The classifier, unfitted; seed and class weights as in the options, unless the user has set them.

        Raises:
            ConfigError: it cannot be made with these arguments.
        """
        wanted: dict[str, Any] = {"random_state": options.seed}
        if options.class_weight == "balanced":
            wanted["class_weight"] = "balanced"
        estimator = _made(self.text, self.kind, self.arguments)
        # An object can tell more than its class: XGBoost's takes most of its parameters as **kwargs.
        told = getattr(estimator, "get_params", None)
        known = _parameters(self.kind) | set(told(deep=False) if callable(told) else ())
        given = {name: value for name, value in wanted.items() if name in known}
        return _made(self.text, self.kind, {**given, **self.arguments}) if given else estimator


def parse_estimator(text: str) -> CustomFamily:
    """The family that a text names; imports its module.

    Args:
        text: "package.module.Class", "module:Class", either with keyword arguments in brackets.

    Raises:
        ConfigError: it cannot be read, there is no such class, or it is no classifier.
    """
    path, bracket, rest = text.strip().partition("(")
    module, name = _split(text, path.strip())
    arguments = _arguments(text, bracket + rest) if bracket else {}
    kind = _class(text, module, name)
    _check_names(text, kind, arguments)
    _check_methods(text, _made(text, kind, arguments))
    return CustomFamily(text.strip(), kind, arguments)


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Packages of each module that can be imported; to find them takes most of a second, once a process is enough."""
    return packages_distributions()


def _fault(text: str, told: str, advice: str) -> ConfigError:
    return ConfigError(f"the estimator {text!r} {told}: {advice}")


def _split(text: str, path: str) -> tuple[str, str]:
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise _fault(text, "names no class of a module", f"write it as in {EXAMPLE} or my_module:MyClassifier")
    return module, name


def _arguments(text: str, brackets: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f{brackets}", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _fault(text, "cannot be read", f"write its arguments as in {EXAMPLE}") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _fault(text, "does not end with its arguments", f"write it as in {EXAMPLE}")
    if call.args or any(each.arg is None for each in call.keywords):
        raise _fault(text, "has an argument without a name", f"name every argument, as in {EXAMPLE}")
    names = [each.arg for each in call.keywords]
    if len(set(names)) < len(names):
        raise _fault(text, "has an argument twice", "give every argument once")
    return {str(each.arg): _literal(text, each) for each in call.keywords}


def _literal(text: str, argument: ast.keyword) -> Any:
    try:
        return ast.literal_eval(argument.value)
    except (ValueError, TypeError) as error:
        told = f"has {argument.arg}={ast.unparse(argument.value)}, which is no literal"
        raise _fault(text, told, "give numbers, quoted words, True, False, None, or lists of them") from error


def _class(text: str, module: str, name: str) -> type[Any]:
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        advice = "install its package, or put its folder on PYTHONPATH"
        raise _fault(text, f"cannot be imported, because there is no module {error.name!r}", advice) from error
    except AttributeError as error:
        raise _fault(text, f"is not in {module!r}, which has no {name!r}", "look at how it is spelt") from error
    except (Exception, SystemExit) as error:  # whatever the user's own module does on import
        raise _fault(text, f"cannot be imported ({_told(error)})", f"see that `import {module}` works") from error
    if not isinstance(found, type):
        raise _fault(text, f"is no class but a {type(found).__name__}", f"name a class, as in {EXAMPLE}")
    return found


def _check_names(text: str, kind: type[Any], arguments: Mapping[str, Any]) -> None:
    known = _parameters(kind)
    unknown = [name for name in arguments if name not in known]
    if unknown and not _takes_any(kind):
        told = f"has no parameter {unknown[0]!r}"
        raise _fault(text, told, f"its parameters are {', '.join(sorted(known)) or 'none'}")


def _check_methods(text: str, estimator: Any) -> None:
    if not hasattr(estimator, "fit"):
        raise _fault(text, "has no method fit", "name a classifier with fit and predict_proba or decision_function")
    if not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        raise _fault(text, "has neither predict_proba nor decision_function", "name a classifier that has one of them")


def _made(text: str, kind: type[Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except Exception as error:
        raise _fault(text, f"cannot be made ({_told(error)})", "look at its arguments") from error


def _parameters(kind: type[Any]) -> set[str]:
    """Names that a class takes; scikit-learn's own list as well, because a wrapper hides it behind **kwargs."""
    listed = getattr(kind, "_get_param_names", None)
    names = set(listed()) if callable(listed) else set()
    return names | {name for name, each in _signature(kind).items() if each.kind in _BY_NAME}


def _takes_any(kind: type[Any]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in _signature(kind).values())


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _signature(kind: type[Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(kind).parameters
    except (TypeError, ValueError):  # a class of a compiled module
        return {}


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
