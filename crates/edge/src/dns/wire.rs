//! The few parts of DNS messages that are read and written byte by byte (RFC 1035, RFC 6891): a question, and an answer's
//! records as they are on the wire.
//!
//! A [`Body`] is all of an answer behind its question. Every answer begins with the question that was asked, as it was
//! written, so a body serves whoever asks the same: names in it point into the question, whose length is the same in any
//! case of letters. Whatever is sent was written here, hence: no answer is longer than its limit, and each has the id and
//! the question of what it answers.

use std::net::IpAddr;

/// The length of a message's fixed part.
pub const HEADER_BYTES: usize = 12;

/// The longest name.
const NAME_BYTES_MAX: usize = 255;
/// An OPT record without options.
const OPT_BYTES: usize = 11;
/// The record type of extensions.
const OPT: u16 = 41;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// In place of a name: the one that was asked for.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, HEADER_BYTES as u8];
/// The largest UDP answer that no network on the way has to split.
pub const UDP_BYTES_MAX: u16 = 1232;
/// The smallest answer that every client takes.
pub const UDP_BYTES_MIN: u16 = 512;

/// Bits of a header's second word.
pub mod flag {
    /// It is an answer.
    pub const RESPONSE: u16 = 0x8000;
    /// From who knows it at first hand.
    pub const AUTHORITATIVE: u16 = 0x0400;
    /// It is not whole.
    pub const TRUNCATED: u16 = 0x0200;
    /// Others may be asked.
    pub const RECURSION_DESIRED: u16 = 0x0100;
    /// Others can be asked.
    pub const RECURSION_AVAILABLE: u16 = 0x0080;
    /// Signatures were checked.
    pub const AUTHENTIC: u16 = 0x0020;
    /// Signatures are not to be checked.
    pub const CHECKING_DISABLED: u16 = 0x0010;
    /// What kind of message it is.
    pub const OPCODE: u16 = 0x7800;
}

/// How it went.
pub mod code {
    /// As asked.
    pub const NO_ERROR: u16 = 0;
    /// The question cannot be read.
    pub const FORMAT_ERROR: u16 = 1;
    /// Nobody knows now.
    pub const SERVER_FAILURE: u16 = 2;
    /// There is no such name.
    pub const NO_NAME: u16 = 3;
    /// That is not done.
    pub const NOT_IMPLEMENTED: u16 = 4;
    /// That is not done for you.
    pub const REFUSED: u16 = 5;
    /// An unknown version of the extensions.
    pub const BAD_VERSION: u16 = 16;
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// By which its answer is known.
    pub id: u16,
    /// The header's bits.
    pub flags: u16,
    /// Name, type and class, as they were written.
    pub raw: &'a [u8],
    /// The extensions, where it has some.
    pub extensions: Option<Extensions>,
}

/// What a client says with EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// How many bytes of UDP it takes.
    pub payload: u16,
    /// The version; there is only 0.
    pub version: u8,
    /// Whether it wants signatures.
    pub dnssec: bool,
}

/// Why a message is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is an answer, or too short to have an id: who answers it may talk with itself for ever.
    Silent,
    /// Its header can be read. The code to answer with.
    Header(u16),
}

impl<'a> Question<'a> {
    /// Reads a message with exactly one question.
    pub fn read(message: &'a [u8]) -> Result<Self, Unreadable> {
        let (id, flags) = word(message, 0).zip(word(message, 2)).ok_or(Unreadable::Silent)?;
        if message.len() < HEADER_BYTES || flags & flag::RESPONSE != 0 {
            return Err(Unreadable::Silent);
        }
        if flags & flag::OPCODE != 0 {
            return Err(Unreadable::Header(code::NOT_IMPLEMENTED));
        }
        let bad = Unreadable::Header(code::FORMAT_ERROR);
        let raw = (word(message, 4) == Some(1)).then(|| question(message)).flatten().ok_or(bad)?;
        let extensions = extensions(message, HEADER_BYTES + raw.len()).map_err(|()| bad)?;
        Ok(Self { id, flags, raw, extensions })
    }

    /// The name as it is on the wire, with the root at its end.
    pub fn name(&self) -> &'a [u8] {
        &self.raw[..self.raw.len() - 4]
    }

    /// The record type.
    pub fn kind(&self) -> u16 {
        word(self.raw, self.raw.len() - 4).unwrap_or(0)
    }

    /// The class; 1 is the internet.
    pub fn class(&self) -> u16 {
        word(self.raw, self.raw.len() - 2).unwrap_or(0)
    }

    /// Whether signatures are wanted.
    pub fn dnssec(&self) -> bool {
        self.extensions.is_some_and(|extensions| extensions.dnssec)
    }

    /// How long an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        let payload = self.extensions.map_or(UDP_BYTES_MIN, |extensions| extensions.payload);
        payload.clamp(UDP_BYTES_MIN, UDP_BYTES_MAX).into()
    }

    /// Appends an answer without records.
    pub fn refuse(&self, code: u16, out: &mut Vec<u8>) {
        Body { code, ..Body::default() }.write(self, usize::MAX, 0, Age::Original, out);
    }
}

/// Appends an answer to a message whose question cannot be read.
pub fn refuse_unread(message: &[u8], code: u16, out: &mut Vec<u8>) {
    let (id, flags) = word(message, 0).zip(word(message, 2)).unwrap_or_default();
    let flags = flag::RESPONSE | (flags & (flag::OPCODE | flag::RECURSION_DESIRED)) | code;
    put(out, &[id, flags, 0, 0, 0, 0]);
}

/// How old the records of an answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Just made.
    Original,
    /// So many seconds, which clients may remember them less.
    Seconds(u32),
    /// Too old: clients may remember them for so many seconds.
    Stale(u32),
}

/// A record's place in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its type.
    pub kind: u16,
    /// Where its time to live is.
    ttl: usize,
    /// Where it ends.
    end: usize,
}

/// An answer behind its question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// How it went.
    pub code: u16,
    /// Whether this server knows it at first hand.
    pub authoritative: bool,
    /// Whether signatures were checked.
    pub authentic: bool,
    /// Whether records are missing.
    pub truncated: bool,
    bytes: Vec<u8>,
    /// The records, in order.
    records: Vec<Place>,
    /// How many of them are answers and authorities; the others are additional.
    answers: usize,
    authorities: usize,
}

impl Body {
    /// A body without records.
    pub fn of_code(code: u16) -> Self {
        Self { code, ..Self::default() }
    }

    /// Addresses of the name that was asked for: however many there are, each takes no more room than it must.
    pub fn of_addresses(addresses: impl IntoIterator<Item = IpAddr>, ttl: u32) -> Self {
        let mut body = Self { authoritative: true, ..Self::default() };
        for address in addresses {
            let (kind, octets) = match &address {
                IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
            };
            body.bytes.extend_from_slice(&POINTER_TO_QUESTION);
            put(&mut body.bytes, &[kind, 1, (ttl >> 16) as u16, ttl as u16, octets.len() as u16]);
            body.bytes.extend_from_slice(&octets);
            let end = body.bytes.len();
            body.records.push(Place { kind, ttl: end - octets.len() - 6, end });
        }
        body.answers = body.records.len();
        body
    }

    /// Reads the answer to a question (name, type and class). `None` where it is another's, or no message.
    pub fn read(message: &[u8], asked: &[u8]) -> Option<Self> {
        let flags = word(message, 2)?;
        let its_own = question(message)?;
        if flags & flag::RESPONSE == 0 || word(message, 4)? != 1 || !its_own.eq_ignore_ascii_case(asked) {
            return None;
        }
        let counts = [word(message, 6)?, word(message, 8)?, word(message, 10)?];
        let start = HEADER_BYTES + its_own.len();
        let mut body = Self {
            code: flags & 0xf,
            authoritative: flags & flag::AUTHORITATIVE != 0,
            authentic: flags & flag::AUTHENTIC != 0,
            truncated: flags & flag::TRUNCATED != 0,
            answers: counts[0].into(),
            authorities: counts[1].into(),
            ..Self::default()
        };
        let mut at = start;
        for number in 0..counts.into_iter().map(usize::from).sum() {
            let record = Record::read(message, at)?;
            if record.kind == OPT {
                // Each hop has its own. What comes behind it is additional, and may point to where it would not be any more.
                let is_additional = number >= body.answers + body.authorities;
                body.code |= u16::from(message[record.ttl]) << 4;
                if is_additional { break } else { return None }
            }
            at = record.end;
            body.records.push(Place { kind: record.kind, ttl: record.ttl - start, end: record.end - start });
        }
        body.bytes.extend_from_slice(&message[start..at]);
        Some(body)
    }

    /// How many answers there are.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// How much memory it takes, about.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Place>() + size_of::<Self>()
    }

    /// For how many seconds it may be remembered: as the answers say, or, of a "no", as its SOA record says (RFC 2308).
    pub fn ttl(&self) -> Option<u32> {
        const SOA: u16 = 6;
        let ttl = |place: &Place| long(&self.bytes, place.ttl);
        if self.answers > 0 {
            return self.records[..self.answers].iter().filter_map(ttl).min();
        }
        let soa = self.records.iter().take(self.authorities).find(|place| place.kind == SOA)?;
        let minimum = long(&self.bytes, soa.end.checked_sub(4)?)?;
        Some(ttl(soa)?.min(minimum))
    }

    /// As a whole message that answers `asked`.
    pub fn to_message(&self, asked: &[u8]) -> Vec<u8> {
        let question = Question { id: 0, flags: 0, raw: asked, extensions: None };
        let mut out = Vec::with_capacity(HEADER_BYTES + asked.len() + self.bytes.len());
        self.write(&question, usize::MAX, 0, Age::Original, &mut out);
        out
    }

    /// Appends the answer to a question, of at most `limit` bytes. Address records, which clients take the first of, begin
    /// with another one at each `turn`.
    pub fn write(&self, question: &Question<'_>, limit: usize, turn: usize, age: Age, out: &mut Vec<u8>) {
        let opt = if question.extensions.is_some() { OPT_BYTES } else { 0 };
        let room = limit.min(u16::MAX.into()).saturating_sub(HEADER_BYTES + question.raw.len() + opt);
        let fitting = self.records.partition_point(|place| place.end <= room);
        let (answers, authorities) =
            (fitting.min(self.answers), fitting.saturating_sub(self.answers).min(self.authorities));
        // That addresses of targets do not fit is nothing to ask again for (RFC 2181, 9).
        let cut = self.truncated || fitting < self.answers + self.authorities;
        let mut flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | (self.code & 0xf);
        flags |= question.flags & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
        for (is, bit) in
            [(self.authoritative, flag::AUTHORITATIVE), (self.authentic, flag::AUTHENTIC), (cut, flag::TRUNCATED)]
        {
            flags |= if is { bit } else { 0 };
        }
        let additionals = fitting - answers - authorities + usize::from(opt > 0);
        put(out, &[question.id, flags, 1, answers as u16, authorities as u16, additionals as u16]);
        out.extend_from_slice(question.raw);
        let start = out.len();
        self.put_records(fitting, turn, out);
        for place in &self.records[..fitting] {
            age.apply(&mut out[start + place.ttl..start + place.ttl + 4]);
        }
        if opt > 0 {
            let dnssec = if question.dnssec() { 0x8000 } else { 0 };
            out.push(0);
            put(out, &[OPT, UDP_BYTES_MAX, (self.code >> 4) << 8, dnssec, 0]);
        }
    }

    fn put_records(&self, fitting: usize, turn: usize, out: &mut Vec<u8>) {
        let end = |records: usize| records.checked_sub(1).map_or(0, |last| self.records[last].end);
        let alike = self.alike();
        if alike < 2 {
            out.extend_from_slice(&self.bytes[..end(fitting)]);
            return;
        }
        let length = self.records[0].end;
        let (first, shown) = (turn % alike, alike.min(fitting));
        for number in (first..alike).chain(0..first).take(shown) {
            out.extend_from_slice(&self.bytes[number * length..(number + 1) * length]);
        }
        out.extend_from_slice(&self.bytes[end(shown)..end(fitting)]);
    }

    /// How many records at the start are addresses of the name that was asked for: of one length, and nothing points to them.
    fn alike(&self) -> usize {
        let Some(first) = self.records.first() else { return 0 };
        let length = match first.kind {
            TYPE_A => 16,
            TYPE_AAAA => 28,
            _ => return 0,
        };
        let is_alike = |(number, place): (usize, &Place)| {
            let start = number * length;
            place.kind == first.kind
                && place.end == start + length
                && self.bytes[start..start + 2] == POINTER_TO_QUESTION
        };
        let all = self.records[..self.answers].iter().enumerate().all(is_alike);
        if all { self.answers } else { 0 }
    }
}

impl Age {
    fn apply(self, ttl: &mut [u8]) {
        let before = long(ttl, 0).unwrap_or(0);
        let after = match self {
            Self::Original => return,
            Self::Seconds(age) => before.saturating_sub(age),
            Self::Stale(seconds) => seconds,
        };
        ttl.copy_from_slice(&after.to_be_bytes());
    }
}

/// A record's place in a message.
struct Record {
    kind: u16,
    ttl: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let fixed = name_end(message, at)?;
        let length = word(message, fixed + 8)?;
        let end = fixed + 10 + usize::from(length);
        (end <= message.len()).then_some(Self { kind: word(message, fixed)?, ttl: fixed + 4, end })
    }
}

/// Name, type and class of a message's first question, whose name points nowhere.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER_BYTES;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 5;
    (at + 1 - HEADER_BYTES <= NAME_BYTES_MAX).then(|| message.get(HEADER_BYTES..end)).flatten()
}

/// The extensions among the records behind the question.
fn extensions(message: &[u8], mut at: usize) -> Result<Option<Extensions>, ()> {
    let counts = [6, 8, 10].map(|at| usize::from(word(message, at).unwrap_or(0)));
    let mut found = None;
    for number in 0..counts.iter().sum() {
        let record = Record::read(message, at).ok_or(())?;
        if record.kind == OPT {
            if number < counts[0] + counts[1] || found.is_some() || message[at] != 0 {
                return Err(());
            }
            found = Some(Extensions {
                payload: word(message, record.ttl - 2).unwrap_or(0),
                version: message[record.ttl + 1],
                dnssec: message[record.ttl + 2] & 0x80 != 0,
            });
        }
        at = record.end;
    }
    Ok(found)
}

/// Where a name ends. Pointers lead back, so that nobody who follows them goes in a circle.
fn name_end(message: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at - start <= NAME_BYTES_MAX {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            length if length >= 0xc0 => {
                let target = usize::from(word(message, at)? & 0x3fff);
                return (target < start).then_some(at + 2);
            }
            _ => return None,
        }
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn put(out: &mut Vec<u8>, words: &[u16]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
}
