"""What can go wrong with the agents of a fleet."""

from __future__ import annotations

from shared.errors import HoldfastError


class AgentError(HoldfastError):
    """An agent can't be enrolled, joined or revoked."""

    exit_code = 80


class BadToken(AgentError):
    """The text is no token, or not a whole one."""

    exit_code = 81


class TokenExpired(AgentError):
    """Its time is over."""

    exit_code = 82


class TokenSpent(AgentError):
    """It has been used, or was withdrawn."""

    exit_code = 83


class OtherHost(AgentError):
    """The token, or the configuration that is there, is another host's."""

    exit_code = 84


class NotEnrolled(AgentError):
    """No agent of this host is enrolled."""

    exit_code = 85
