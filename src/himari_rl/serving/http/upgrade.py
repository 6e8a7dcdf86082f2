"""uvicorn's HTTP protocol, for which `Upgrade` is what RFC 9110 (7.8) lets a server make of it: nothing.

Java's HttpClient asks for h2c with its first request by default. httptools then ends the request behind its headers and
leaves the body to the protocol that was asked for; uvicorn speaks HTTP/1.1 on, so it answered a POST without its body
and dropped what came behind it. Here the head goes through the parser again without the offer, and the body after it.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFERS = (b"upgrade", b"http2-settings")
_INVALID = "Invalid HTTP request received."


class Http1Protocol(HttpToolsProtocol):
    """One connection on which every request is HTTP/1.1, whatever else its client could speak."""

    _offered = False
    """The request that the parser is in offers another protocol: it will come again without the offer."""

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for a request that offers an upgrade."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._offered = False
                if self.parser.get_method() != b"CONNECT":
                    data = self._without_offer() + data[upgrade.args[0] :]
                    continue
                self._refuse()
            except httptools.HttpParserError:
                self._refuse()
            return

    def on_headers_complete(self) -> None:
        """As uvicorn's, unless the request comes again."""
        self._offered = self.parser.should_upgrade()
        if not self._offered:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn's, unless the request comes again."""
        if not self._offered:
            super().on_message_complete()

    def _refuse(self) -> None:
        self.logger.warning(_INVALID)
        self.send_400_response(_INVALID)

    def _without_offer(self) -> bytes:
        """The head of the request that the parser has just read, without the offer of another protocol."""
        parser = self.parser
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [part for part in value.split(b",") if part.strip().lower() not in _OFFERS]
                value = b",".join(kept)
            if name not in _OFFERS and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"\r\n"])
