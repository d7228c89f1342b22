//! Frames of SPDY/3.1 as bytes: a decoder that is given bytes as they come and gives frames, and an encoder. No I/O, no clock.
//!
//! What a stranger sends is bounded here: a control frame and a header block have a size, a data frame is passed on in pieces
//! as it comes and never kept, so the decoder holds at most [`CONTROL_BYTES_MAX`] bytes and one zlib window.
//!
//! Header blocks of one direction share one zlib stream, so the decoder reads each, also of a frame that is then refused. The
//! encoder writes them as stored blocks: they are some ten bytes, for which a compressor would hold a quarter of a megabyte.
//!
//! Public behaviour: SPDY protocol draft 3.1, sections 2.2 and 2.6. Flow control (WINDOW_UPDATE) is read and not followed:
//! no client or server of Kubernetes does, and whoever waited for its updates would wait for ever.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::{DICTIONARY, ID};

/// A control frame's payload. Kubernetes' own are some hundred bytes.
pub const CONTROL_BYTES_MAX: usize = 16 << 10;
/// A header block when it is inflated: else a frame of 16 KiB could become 16 MiB.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of one block.
const HEADERS_MAX: usize = 100;
/// Data is passed on in pieces of at most this size.
pub const PIECE_BYTES_MAX: usize = 16 << 10;
/// A smaller piece is copied: kept for long, it would hold the whole block that it was read with.
const COPIED_BYTES_MAX: usize = 1 << 10;
/// Length of a frame's head.
const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;

/// Names in lower case, and values; more than one value of a name is joined by a zero byte.
pub type Headers = Vec<(String, String)>;

/// A frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    SynStream {
        /// Odd from clients, even from servers, growing.
        id: u32,
        /// The opener sends nothing on it.
        fin: bool,
        /// What the stream is for.
        headers: Headers,
    },
    /// A stream is accepted.
    SynReply {
        /// The stream.
        id: u32,
        /// The answering side sends nothing on it.
        fin: bool,
        /// Empty in Kubernetes.
        headers: Headers,
    },
    /// A stream ends at once in both directions.
    RstStream {
        /// The stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Asks whether the other side lives; sent back as it is.
    Ping(u32),
    /// No more frames come after it.
    GoAway {
        /// The last stream that the sender accepted.
        last: u32,
        /// 0: nothing is wrong.
        status: u32,
    },
    /// Headers after the first; not used in Kubernetes but for its end mark.
    Headers {
        /// The stream.
        id: u32,
        /// The sender has finished.
        fin: bool,
    },
    /// SETTINGS, WINDOW_UPDATE and types that nobody knows.
    Ignored,
    /// A piece of a stream's data.
    Data {
        /// The stream.
        id: u32,
        /// The sender has finished.
        fin: bool,
        /// At most [`PIECE_BYTES_MAX`] bytes from the decoder.
        data: Bytes,
    },
}

/// Bytes that are no frames.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Not version 3.
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    /// A control frame beyond [`CONTROL_BYTES_MAX`].
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    /// A control frame that ends before its fields do.
    #[error("a control frame of type {0} is cut short")]
    Short(u16),
    /// Stream 0 is nobody's.
    #[error("a frame for stream 0")]
    StreamZero,
    /// The header block does not inflate, or not to headers.
    #[error("a header block that cannot be read: {0}")]
    Headers(&'static str),
}

/// Reads frames; one for each connection.
pub struct Decoder {
    inflate: Decompress,
    state: State,
}

enum State {
    Head,
    /// In a data frame, with so many bytes to come.
    Data {
        id: u32,
        fin: bool,
        left: usize,
    },
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true), state: State::Head }
    }
}

impl Decoder {
    /// Takes the next frame from `input`; `None` when more bytes must come first.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let State::Data { id, fin, left } = self.state {
                return Ok(self.piece(id, fin, left, input));
            }
            let Some(head) = input.get(..HEAD_BYTES) else { return Ok(None) };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) = (head[4], u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize);
            if word >> 31 == 0 {
                if word == 0 {
                    return Err(FrameError::StreamZero);
                }
                input.advance(HEAD_BYTES);
                self.state = State::Data { id: word, fin: flags & FIN != 0, left: length };
                continue;
            }
            let (version, kind) = ((word >> 16) as u16 & 0x7fff, (word & 0xffff) as u16);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(FrameError::TooLong(length));
            }
            if input.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            input.advance(HEAD_BYTES);
            let payload = input.split_to(length).freeze();
            return self.control(kind, flags & FIN != 0, payload).map(Some);
        }
    }

    fn piece(&mut self, id: u32, fin: bool, left: usize, input: &mut BytesMut) -> Option<Frame> {
        if left > 0 && input.is_empty() {
            return None;
        }
        let piece = input.split_to(left.min(input.len()).min(PIECE_BYTES_MAX));
        let data = if piece.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(&piece) } else { piece.freeze() };
        let left = left - data.len();
        self.state = if left > 0 { State::Data { id, fin, left } } else { State::Head };
        Some(Frame::Data { id, fin: fin && left == 0, data })
    }

    fn control(&mut self, kind: u16, fin: bool, mut payload: Bytes) -> Result<Frame, FrameError> {
        let mut number = || payload.try_get_u32().map_err(|_| FrameError::Short(kind));
        let frame = match kind {
            1 => {
                let id = stream(number()?)?;
                let _associated = number()?;
                // Priority and slot.
                payload.try_get_u16().map_err(|_| FrameError::Short(kind))?;
                Frame::SynStream { id, fin, headers: self.headers(&payload)? }
            }
            2 => Frame::SynReply { id: stream(number()?)?, fin, headers: self.headers(&payload)? },
            3 => Frame::RstStream { id: stream(number()?)?, status: number()? },
            6 => Frame::Ping(number()?),
            7 => Frame::GoAway { last: number()?, status: number()? },
            8 => {
                let id = stream(number()?)?;
                self.headers(&payload)?;
                Frame::Headers { id, fin }
            }
            _ => Frame::Ignored,
        };
        Ok(frame)
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let mut text = Bytes::from(self.inflate(block)?);
        let short = |_| FrameError::Headers("cut short");
        let count = text.try_get_u32().map_err(short)? as usize;
        if count > HEADERS_MAX {
            return Err(FrameError::Headers("too many headers"));
        }
        let mut part = || {
            let length = text.try_get_u32().map_err(short)? as usize;
            if length > text.len() {
                return Err(FrameError::Headers("cut short"));
            }
            let part = text.split_to(length);
            String::from_utf8(part.into()).map_err(|_| FrameError::Headers("not text"))
        };
        (0..count).map(|_| Ok((part()?.to_ascii_lowercase(), part()?))).collect()
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(256);
        let mut rest = block;
        loop {
            if out.len() == out.capacity() {
                if out.len() >= HEADER_BYTES_MAX {
                    return Err(FrameError::Headers("too long"));
                }
                out.reserve(out.len());
            }
            let (taken, given) = (self.inflate.total_in(), out.len());
            let result = self.inflate.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - taken).expect("no more than was given");
            rest = &rest[used..];
            match result {
                Err(error) if error.needs_dictionary() == Some(ID) => {
                    let set = self.inflate.set_dictionary(&DICTIONARY);
                    set.map_err(|_| FrameError::Headers("another dictionary"))?;
                }
                Err(_) => return Err(FrameError::Headers("not zlib")),
                Ok(Status::StreamEnd) => return Err(FrameError::Headers("the compressed stream ended")),
                Ok(_) if rest.is_empty() && out.len() < out.capacity() => return Ok(out),
                Ok(_) if used == 0 && out.len() == given && out.len() < out.capacity() => {
                    return Err(FrameError::Headers("not zlib"));
                }
                Ok(_) => {}
            }
        }
    }
}

fn stream(id: u32) -> Result<u32, FrameError> {
    match id & 0x7fff_ffff {
        0 => Err(FrameError::StreamZero),
        id => Ok(id),
    }
}

/// Writes frames; one for each connection.
#[derive(Default)]
pub struct Encoder {
    /// Whether the zlib stream of the headers has begun.
    begun: bool,
}

impl Encoder {
    /// Appends a frame. [`Frame::Ignored`] and [`Frame::Headers`] are never sent and write nothing.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.block(headers);
                control(1, *fin, 10 + block.len(), out);
                out.put_u32(*id);
                out.put_bytes(0, 6);
                out.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => {
                let block = self.block(headers);
                control(2, *fin, 4 + block.len(), out);
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::RstStream { id, status } => pair(3, *id, *status, out),
            Frame::Ping(id) => {
                control(6, false, 4, out);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => pair(7, *last, *status, out),
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32((u32::from(*fin) << 24) | length(data.len()));
                out.put_slice(data);
            }
            Frame::Headers { .. } | Frame::Ignored => {}
        }
    }

    /// A header block as a stored block of the connection's one zlib stream.
    fn block(&mut self, headers: &Headers) -> BytesMut {
        let mut text = BytesMut::new();
        text.put_u32(length(headers.len()));
        for part in headers.iter().flat_map(|(name, value)| [name, value]) {
            text.put_u32(length(part.len()));
            text.put_slice(part.as_bytes());
        }
        let mut out = BytesMut::with_capacity(text.len() + 16);
        if !std::mem::replace(&mut self.begun, true) {
            // Deflate with a window of 32 KiB; a dictionary, and which.
            out.put_slice(&[0x78, 0xbb]);
            out.put_u32(ID);
        }
        let length = u16::try_from(text.len()).expect("our own headers are short");
        out.put_u8(0);
        out.put_u16_le(length);
        out.put_u16_le(!length);
        out.put_slice(&text);
        // An empty block says that this was all: without it Go's reader asks for more, finds none and gives up.
        out.put_slice(&[0, 0, 0, 0xff, 0xff]);
        out
    }
}

fn control(kind: u16, fin: bool, payload: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32((u32::from(fin) << 24) | length(payload));
}

fn pair(kind: u16, first: u32, second: u32, out: &mut BytesMut) {
    control(kind, false, 8, out);
    out.put_u32(first);
    out.put_u32(second);
}

fn length(bytes: usize) -> u32 {
    let length = u32::try_from(bytes).expect("lengths are small");
    assert!(length < 1 << 24, "a frame's length has 24 bits");
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn frames() -> Vec<Frame> {
        let headers = vec![header("streamtype", "error"), header("port", "80")];
        vec![
            Frame::SynStream { id: 1, fin: false, headers: headers.clone() },
            Frame::SynStream { id: 3, fin: true, headers },
            Frame::SynReply { id: 1, fin: false, headers: Vec::new() },
            Frame::Data { id: 1, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Ping(7),
            Frame::Data { id: 1, fin: true, data: Bytes::new() },
            Frame::RstStream { id: 3, status: 5 },
            Frame::GoAway { last: 3, status: 0 },
        ]
    }

    fn decode_in_blocks_of(size: usize, bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut input, mut out) = (Decoder::default(), BytesMut::new(), Vec::new());
        for block in bytes.chunks(size) {
            input.extend_from_slice(block);
            while let Some(frame) = decoder.next(&mut input)? {
                out.push(frame);
            }
            assert!(input.len() < HEAD_BYTES + CONTROL_BYTES_MAX);
        }
        Ok(out)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        frames().iter().for_each(|frame| encoder.encode(frame, &mut bytes));
        for size in [64, 4096] {
            assert_eq!(decode_in_blocks_of(size, &bytes), Ok(frames()), "{size}");
        }
        let pieces = decode_in_blocks_of(1, &bytes).unwrap();
        let data: Vec<u8> = pieces
            .iter()
            .filter_map(|frame| if let Frame::Data { data, .. } = frame { Some(data) } else { None })
            .flatten()
            .copied()
            .collect();
        assert_eq!(data, b"hello");
    }

    /// Two header blocks as the library of kubectl compresses them: the second refers to the first.
    #[test]
    fn compressed_header_blocks_share_their_window() {
        let mut deflate = flate2::Compress::new(flate2::Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).unwrap();
        let mut bytes = BytesMut::new();
        for id in [1_u32, 3] {
            let text = b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x06stdout";
            let mut block = Vec::with_capacity(1024);
            deflate.compress_vec(text, &mut block, flate2::FlushCompress::Sync).unwrap();
            control(1, false, 10 + block.len(), &mut bytes);
            bytes.put_u32(id);
            bytes.put_bytes(0, 6);
            bytes.put_slice(&block);
        }
        let headers = vec![header("streamtype", "stdout")];
        let expected = [1, 3].map(|id| Frame::SynStream { id, fin: false, headers: headers.clone() });
        assert_eq!(decode_in_blocks_of(7, &bytes), Ok(expected.to_vec()));
    }

    /// A reader in Go gave up after the first block: it takes a block for whole when an empty one follows, as zlib's flush
    /// writes it.
    #[test]
    fn each_written_header_block_ends_with_an_empty_one() {
        let mut encoder = Encoder::default();
        for start in [&[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0, 4, 0, 0xfb, 0xff][..], &[0, 4, 0, 0xfb, 0xff]] {
            let block = encoder.block(&Vec::new());
            assert_eq!(&block[..], [start, &[0, 0, 0, 0], &[0, 0, 0, 0xff, 0xff]].concat());
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut deflate = flate2::Compress::new(flate2::Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).unwrap();
        let mut text = vec![0, 0, 0, 1, 0, 0x0f, 0, 0];
        text.resize(1 << 20, b'a');
        let mut block = Vec::with_capacity(16 << 10);
        deflate.compress_vec(&text, &mut block, flate2::FlushCompress::Sync).unwrap();
        let mut bomb = BytesMut::new();
        control(2, false, 4 + block.len(), &mut bomb);
        bomb.put_u32(1);
        bomb.put_slice(&block);
        for (bytes, expected) in [
            (&bomb[..], FrameError::Headers("too long")),
            (&[0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff], FrameError::TooLong(0xff_ffff)),
            (&[0x80, 2, 0, 6, 0, 0, 0, 4], FrameError::Version(2)),
            (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Short(3)),
            (&[0, 0, 0, 0, 0, 0, 0, 4], FrameError::StreamZero),
            (&[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 9, 9], FrameError::Headers("not zlib")),
        ] {
            assert_eq!(decode_in_blocks_of(4096, bytes), Err(expected));
        }
    }

    #[test]
    fn unknown_control_frames_are_passed_over() {
        let bytes = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 1, 0, 0x80, 3, 0, 99, 0, 0, 0, 0];
        assert_eq!(decode_in_blocks_of(3, &bytes), Ok(vec![Frame::Ignored, Frame::Ignored]));
    }
}
