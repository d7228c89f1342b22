//! A question's bytes in, its answer's bytes out: everything that is answered without asking others.
//!
//! What was answered is kept as it went out, until the index changes: the same question costs a look-up and a copy. Questions
//! are refused that no client of a cluster has: all records of a name (ANY, which serves to make small questions into large
//! answers), whole zones (AXFR, IXFR), and classes other than the internet's. A name in any case of letters is the same, and
//! comes back as it was written: clients that mix cases to tell forged answers get theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::answer::{Answer, TTL, Zone, answer};
use super::index::Index;
use super::metrics;
use super::wire::{Age, Body, Extensions, Question, Unreadable, code, refuse_unread};

/// How many names may stand for each other in a row: they may do so in a circle.
const ALIASES_MAX: usize = 8;
/// How many answers are kept as they went out, and how many bytes: strangers can ask for any number of names.
const KEPT_MAX: usize = 16_384;
const KEPT_BYTES_MAX: usize = 8 << 20;

const TYPE_IXFR: u16 = 251;
const TYPE_ANY: u16 = 255;
const CLASS_INTERNET: u16 = 1;

/// Over what a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// An answer has few bytes.
    Udp,
    /// An answer has at most 65,535.
    Tcp,
}

impl Via {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    fn limit(self, question: &Question<'_>) -> usize {
        match self {
            Self::Udp => question.udp_limit(),
            Self::Tcp => u16::MAX.into(),
        }
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Nothing: it is no question.
    Nothing,
    /// The answer was appended.
    Answered,
    /// Others are to be asked.
    Ask(Box<Asked>),
}

/// A question that others are to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    id: u16,
    flags: u16,
    raw: Vec<u8>,
    extensions: Option<Extensions>,
    via: Via,
    /// The names in the cluster that stand for the one to ask for.
    aliases: Vec<Record>,
    /// The name to ask for, its type and class, in small letters.
    pub target: Vec<u8>,
}

impl Asked {
    /// The question as it came.
    pub fn question(&self) -> Question<'_> {
        Question { id: self.id, flags: self.flags, raw: &self.raw, extensions: self.extensions }
    }

    /// The answer, from what others answered for `target`.
    pub fn answer(&self, body: &Body, age: Age) -> Vec<u8> {
        let joined = (!self.aliases.is_empty()).then(|| behind(self, body, age));
        let (body, age) = joined.as_ref().map_or((body, age), |joined| (joined, Age::Original));
        metrics::responded(body.code);
        let (question, mut out) = (self.question(), Vec::new());
        body.write(&question, self.via.limit(&question), 0, age, &mut out);
        out
    }
}

/// Answers what it can.
pub struct Responder {
    zone: Zone,
    index: RwLock<Index>,
    kept: Mutex<Kept>,
    /// Counts answers: each begins with another address, which spreads clients that take the first.
    turn: AtomicUsize,
}

/// Answers as they went out.
#[derive(Default)]
struct Kept {
    /// Of which state of the index they tell.
    serial: u32,
    bytes: usize,
    by_question: HashMap<Box<[u8]>, Arc<Body>>,
}

enum Found {
    Here(Body),
    Elsewhere { aliases: Vec<Record>, target: Vec<u8> },
}

impl Responder {
    /// Answers for a zone from an index.
    pub fn new(zone: Zone, index: Index) -> Self {
        Self { zone, index: RwLock::new(index), kept: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// What is known.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no holder of the index's lock panics")
    }

    /// The same, to change it.
    pub fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no holder of the index's lock panics")
    }

    /// Answers a message, or says whom to ask. Answers are appended to `out`.
    pub fn respond(&self, message: &[u8], via: Via, out: &mut Vec<u8>) -> Outcome {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(Unreadable::Silent) => return Outcome::Nothing,
            Err(Unreadable::Header(code)) => {
                metrics::responded(code);
                refuse_unread(message, code, out);
                return Outcome::Answered;
            }
        };
        metrics::asked(via, question.kind());
        if let Some(code) = refusal(&question) {
            metrics::responded(code);
            question.refuse(code, out);
            return Outcome::Answered;
        }
        let body = match self.body(question.raw) {
            Ok(body) => body,
            Err((aliases, target)) => {
                let Question { id, flags, raw, extensions } = question;
                let raw = raw.to_vec();
                return Outcome::Ask(Box::new(Asked { id, flags, raw, extensions, via, aliases, target }));
            }
        };
        metrics::responded(body.code);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        body.write(&question, via.limit(&question), turn, Age::Original, out);
        Outcome::Answered
    }

    /// The answer to a question, or the names that stand for another one and that one.
    fn body(&self, raw: &[u8]) -> Result<Arc<Body>, (Vec<Record>, Vec<u8>)> {
        let mut small = [0; 260];
        let asked = &mut small[..raw.len()];
        asked.copy_from_slice(raw);
        asked.make_ascii_lowercase();
        let index = self.index();
        if let Some(body) = self.kept(index.serial()).by_question.get(&*asked) {
            return Ok(body.clone());
        }
        match self.resolve(&index, asked) {
            Found::Here(body) => {
                let body = Arc::new(body);
                // Until everything is known an answer is true for a moment only.
                if index.is_synced() {
                    self.kept(index.serial()).keep(asked, &body);
                }
                Ok(body)
            }
            Found::Elsewhere { aliases, target } => Err((aliases, target)),
        }
    }

    fn kept(&self, serial: u32) -> std::sync::MutexGuard<'_, Kept> {
        let mut kept = self.kept.lock().expect("no holder of the lock on kept answers panics");
        if kept.serial != serial {
            *kept = Kept { serial, ..Kept::default() };
        }
        kept
    }

    /// Answers from the index, following aliases to wherever they lead.
    fn resolve(&self, index: &Index, asked: &[u8]) -> Found {
        let (asked_name, tail) = asked.split_at(asked.len() - 4);
        let Ok(first) = name_of(asked_name) else { return Found::Here(Body::of_code(code::FORMAT_ERROR)) };
        let kind = RecordType::from(u16::from_be_bytes([tail[0], tail[1]]));
        let (mut name, mut aliases) = (first.clone(), Vec::new());
        while aliases.len() < ALIASES_MAX {
            let (code, mut answers, authorities, additionals) = match answer(index, &self.zone, &name, kind) {
                Answer::Records { answers, additionals } => (ResponseCode::NoError, answers, vec![], additionals),
                Answer::Alias { record, target } if kind != RecordType::CNAME => {
                    aliases.push(*record);
                    name = target.to_lowercase();
                    continue;
                }
                Answer::Alias { record, .. } => (ResponseCode::NoError, vec![*record], vec![], vec![]),
                Answer::NoData => (ResponseCode::NoError, vec![], vec![self.zone.soa(index)], vec![]),
                Answer::NoName => (ResponseCode::NXDomain, vec![], vec![self.zone.soa(index)], vec![]),
                Answer::NotReady => return Found::Here(Body::of_code(code::SERVER_FAILURE)),
                Answer::NotOurs => {
                    let target = [&*wire_name(&name), tail].concat();
                    return Found::Elsewhere { aliases, target };
                }
            };
            if aliases.is_empty()
                && additionals.is_empty()
                && let Some(addresses) = addresses(&answers)
            {
                return Found::Here(Body::of_addresses(addresses, TTL));
            }
            // The code is that of the last name (RFC 6604).
            answers.splice(0..0, aliases);
            let parts = Parts { code, authoritative: true, answers, authorities, additionals };
            return Found::Here(parts.body(&first, asked));
        }
        Found::Here(Body::of_code(code::SERVER_FAILURE))
    }
}

impl Kept {
    fn keep(&mut self, asked: &[u8], body: &Arc<Body>) {
        let weight = body.weight() + asked.len();
        if self.by_question.len() >= KEPT_MAX || self.bytes + weight > KEPT_BYTES_MAX {
            *self = Self { serial: self.serial, ..Self::default() };
        }
        self.bytes += weight;
        self.by_question.insert(asked.into(), body.clone());
    }
}

/// Why a question has no answer, whatever it is about.
fn refusal(question: &Question<'_>) -> Option<u16> {
    if question.extensions.is_some_and(|extensions| extensions.version > 0) {
        return Some(code::BAD_VERSION);
    }
    let refused = question.class() != CLASS_INTERNET || (TYPE_IXFR..=TYPE_ANY).contains(&question.kind());
    refused.then_some(code::REFUSED)
}

/// The addresses, where there is nothing else.
fn addresses(answers: &[Record]) -> Option<Vec<IpAddr>> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    answers.iter().map(address).collect::<Option<Vec<_>>>().filter(|addresses| !addresses.is_empty())
}

/// What goes into an answer.
struct Parts {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Parts {
    /// As it is written behind the question, with names pointing into it and each other.
    fn body(self, name: &Name, asked: &[u8]) -> Body {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.metadata.response_code = self.code;
        message.metadata.authoritative = self.authoritative;
        (message.answers, message.authorities) = (self.answers, self.authorities);
        message.additionals = self.additionals;
        // What is larger than any message is cut by the library, and says so.
        let written = message.to_vec().ok().and_then(|mut message| {
            let question = message.get_mut(super::wire::HEADER_BYTES..super::wire::HEADER_BYTES + asked.len())?;
            question.copy_from_slice(asked);
            Body::read(&message, asked)
        });
        written.unwrap_or_else(|| Body::of_code(code::SERVER_FAILURE))
    }
}

/// The answer for a name that stands for the target: the aliases, then what others answered.
fn behind(asked: &Asked, body: &Body, age: Age) -> Body {
    let mut whole = Vec::new();
    let question = Question { id: 0, flags: 0, raw: &asked.target, extensions: None };
    body.write(&question, usize::MAX, 0, age, &mut whole);
    let name = name_of(&asked.raw[..asked.raw.len() - 4].to_ascii_lowercase());
    let (Ok(found), Ok(name)) = (Message::from_vec(&whole), name) else { return Body::of_code(code::SERVER_FAILURE) };
    let answers = asked.aliases.iter().cloned().chain(found.answers).collect();
    let (code, authorities) = (found.metadata.response_code, found.authorities);
    let parts = Parts { code, authoritative: false, answers, authorities, additionals: vec![] };
    parts.body(&name, &asked.raw.to_ascii_lowercase())
}

fn name_of(wire: &[u8]) -> Result<Name, hickory_proto::serialize::binary::DecodeError> {
    Name::read(&mut BinDecoder::new(wire))
}

fn wire_name(name: &Name) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len());
    for label in name.iter() {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}
