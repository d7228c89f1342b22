//! Protobuf's wire format: a message as fields, each a tag and an undecoded value. Reads within bounds or says why not.

use super::{Result, Why};

/// The value of a field, as far as the wire format tells.
#[derive(Debug, Clone, Copy)]
pub(super) enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, bytes, a message, or numbers in one piece.
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Datum<'a> {
    pub(super) fn varint(self) -> Result<u64> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(self.is_not("an integer")) }
    }

    pub(super) fn fixed64(self) -> Result<u64> {
        if let Self::Fixed64(bits) = self { Ok(bits) } else { Err(self.is_not("a double")) }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(self.is_not("bytes, a string or a message")) }
    }

    pub(super) fn text(self) -> Result<&'a str> {
        Ok(std::str::from_utf8(self.bytes()?).map_err(Why::Utf8)?)
    }

    fn is_not(self, wanted: &'static str) -> super::ProtobufError {
        let found = match self {
            Self::Varint(_) => "varint",
            Self::Fixed64(_) => "64-bit",
            Self::Bytes(_) => "length-delimited",
            Self::Fixed32 => "32-bit",
        };
        Why::WireType { found, wanted }.into()
    }
}

/// The fields of a message in their order. Ends after the first error.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<(u32, Datum<'a>)> {
        let key = varint(&mut self.rest)?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| (1..1 << 29).contains(tag));
        let tag = tag.ok_or(Why::Number(key >> 3))?;
        let datum = match key & 7 {
            0 => Datum::Varint(varint(&mut self.rest)?),
            1 => {
                let (bits, rest) = self.rest.split_first_chunk().ok_or(Why::Truncated)?;
                self.rest = rest;
                Datum::Fixed64(u64::from_le_bytes(*bits))
            }
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| Why::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Why::Truncated)?;
                self.rest = rest;
                Datum::Bytes(bytes)
            }
            5 => {
                self.rest = self.rest.get(4..).ok_or(Why::Truncated)?;
                Datum::Fixed32
            }
            // Groups, which were given up before Kubernetes began, and what never was.
            other => return Err(Why::Unsupported(other).into()),
        };
        Ok((tag, datum))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Datum<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Takes a variable-length integer: seven bits a byte, the lowest first.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Why::Truncated)?;
        *bytes = rest;
        if shift == 63 && *byte > 1 {
            break;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Why::Varint.into())
}
