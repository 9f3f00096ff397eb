# wstest, from the folder that tests/tools/autobahn makes. Python 2.7.
import os
import re
import site
import sys
import unittest

here = os.path.dirname(os.path.abspath(__file__))
site.addsitedir(os.path.join(here, "wheels"))
site.addsitedir(os.path.join(here, "sources"))
# Needed by parts of the suite that are not used here.
sys.modules["unittest2"] = unittest
from autobahn.websocket import protocol
from autobahntestsuite import wstest

# Without its C library the suite masks and validates byte by byte, which makes hours of the cases with many large messages. The
# same in pieces.
XOR = ["".join(chr(byte ^ mask) for byte in range(256)) for mask in range(256)]


class Masker(object):
    def __init__(self, mask):
        self.mask = [ord(byte) for byte in mask]
        self.ptr = 0

    def pointer(self):
        return self.ptr

    def reset(self):
        self.ptr = 0

    def process(self, data):
        data = bytes(data)
        masked = bytearray(len(data))
        for offset in range(min(4, len(data))):
            masked[offset::4] = data[offset::4].translate(XOR[self.mask[(self.ptr + offset) & 3]])
        self.ptr += len(data)
        return bytes(masked)


class Validator(protocol.Utf8Validator):
    # RFC 3629 section 4.
    whole = re.compile(
        b"(?:[\x00-\x7f]+|[\xc2-\xdf][\x80-\xbf]"
        b"|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
        b"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*"
    )

    def validate(self, data):
        data = bytes(data)
        # What a piece before has left open is finished byte by byte, and so is what is at the end of this one, or wrong.
        first = 0
        while self.state != 0 and first < len(data):
            valid, ends, at, total = super(Validator, self).validate(data[first])
            if not valid:
                return valid, ends, first + at, total
            first += 1
        last = self.whole.match(data, first).end()
        self.i += last - first
        valid, ends, at, total = super(Validator, self).validate(data[last:])
        return valid, ends, last + at, total


protocol.createXorMasker = lambda mask, length=None: Masker(mask)
protocol.Utf8Validator = Validator
wstest.run()
