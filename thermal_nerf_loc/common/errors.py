# SPDX-License-Identifier: Apache-2.0
"""Errors meant for the user: what, where, expected, got, next step."""


class UserError(Exception):
    """Something a user can put right; the command line prints it without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, expected: object = None,
                 got: object = None, hint: str | None = None) -> None:
        """Keep the parts apart so that callers and tests can read them."""
        self.what, self.where, self.expected, self.got, self.hint = (
            what, where, expected, got, hint)
        super().__init__(self._compose())

    def _compose(self) -> str:
        text = f'{self.where}: {self.what}' if self.where is not None else self.what
        facts = [f'{name} {value}' for name, value in
                 (('expected', self.expected), ('got', self.got)) if value is not None]
        text = '; '.join([text, *facts])
        return f'{text}. {self.hint}' if self.hint else text


class InputError(UserError):
    """A bad argument, file, message or value."""

    exit_code = 2


class RunError(UserError):
    """The input was well formed, yet the job could not be done (lost, interrupted, no disk)."""
