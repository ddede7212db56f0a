"""Makes ``twistd hmacfs`` appear. Every ``twistd --help`` imports this module, so nothing else may stand here."""

from twisted.application.service import ServiceMaker

hmacfs = ServiceMaker("hmacfs", "hmacfs.tap", "The file server for XMPP HTTP File Upload (XEP-0363).", "hmacfs")
