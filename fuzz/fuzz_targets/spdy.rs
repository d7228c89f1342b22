//! Frames of SPDY: no bytes make the decoder fail but with an error, or keep more than a control frame; and it reads the same
//! in whatever blocks they come.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use streams::spdy::frame::{CONTROL_BYTES_MAX, Decoder, Encoder, Frame, PIECE_BYTES_MAX};

/// All frames, data of one frame joined, and whether the bytes ended in an error.
fn decode(bytes: &[u8], block: usize) -> (Vec<Frame>, bool) {
    let (mut decoder, mut input, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for block in bytes.chunks(block) {
        input.extend_from_slice(block);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(frame)) => {
                    if let Frame::Data { data, .. } = &frame {
                        assert!(data.len() <= PIECE_BYTES_MAX);
                    }
                    join(&mut frames, frame);
                }
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        assert!(input.len() <= CONTROL_BYTES_MAX + 8);
    }
    (frames, false)
}

fn join(frames: &mut Vec<Frame>, frame: Frame) {
    if let (Some(Frame::Data { id, fin: fin @ false, data }), Frame::Data { id: same, fin: last, data: more }) = (frames.last_mut(), &frame)
        && id == same
    {
        *data = Bytes::from([&data[..], &more[..]].concat());
        *fin = *last;
        return;
    }
    frames.push(frame);
}

fuzz_target!(|bytes: &[u8]| {
    let (frames, failed) = decode(bytes, 4096);
    assert_eq!((&frames, failed), (&decode(bytes, 3).0, decode(bytes, 3).1));
    // What was read is written and read again the same.
    let (mut encoder, mut written) = (Encoder::default(), BytesMut::new());
    let sent = |frame: &&Frame| !matches!(frame, Frame::Ignored | Frame::Headers { .. });
    let sent: Vec<Frame> = frames.iter().filter(sent).cloned().collect();
    sent.iter().for_each(|frame| encoder.encode(frame, &mut written));
    let mut joined = Vec::new();
    sent.into_iter().for_each(|frame| join(&mut joined, frame));
    let (again, failed) = decode(&written, 1000);
    assert!(!failed && again == joined);
});
