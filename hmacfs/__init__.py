"""hmacfs: the files that XMPP users send each other (XEP-0363 HTTP File Upload)."""

__version__ = "0.1.0"
