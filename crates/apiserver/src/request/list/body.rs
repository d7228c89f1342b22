//! A page as the body of an answer.
//!
//! In the stored form a list is a concatenation of bytes that are there already: as JSON, or as protobuf, which each object
//! keeps once it has been made. It goes out in pieces of bounded size, each made when it is asked for. What needs decoding or
//! encoding of more than a little is done away from the threads that serve requests.

use std::io::Write as _;
use std::sync::Arc;

use api::protobuf::encode;
use api::schema::TypeRef;
use api::{ApiError, Object, Reason, Resource};
use bytes::Bytes;
use control::Body;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::Page;
use crate::listener::WRITE_BYTES;
use crate::request::Call;
use crate::request::negotiate::{Form, Syntax, View};
use crate::request::respond::{self, Answer, GZIP_MIN};
use crate::server::Served;
use crate::watch_cache::{Joined, Keeping, ListOf};
use crate::{conversion, table};

/// How much of a list is copied into one piece: what goes out in one write.
const PIECE: usize = WRITE_BYTES;

/// What stands before an item is never longer: a tag and a length, or a comma and a brace.
const ITEM_HEAD_MAX: usize = 16;

/// Larger lists are decoded or encoded away from the runtime's threads: this much takes them about a millisecond.
const IN_PLACE_MAX: usize = 128 * 1024;

/// A page to be written, with all that writing takes.
struct Writing {
    served: Arc<Served>,
    form: Form,
    now: jiff::Timestamp,
    page: Page,
}

/// Whether the answer is made of the objects' bytes as they are.
fn is_joined(call: &Call) -> bool {
    let form = call.form;
    form.view == View::Whole && call.served.is_stored_form() && form.syntax == Syntax::Json && !form.pretty
}

/// Writes a list from what is kept of it.
pub(super) fn kept(call: &Call, revision: u64, of: &ListOf) -> Option<Answer> {
    let Joined { pieces, length } = is_joined(call).then(|| call.server.caches.kept_lists().find(of))??;
    let pieces = (0..pieces.len()).map(move |at| pieces[at].clone());
    let head = json_head(&call.served.resource, &Page::emptied(revision));
    Some(streamed(call.form, List { head, items: pieces, length, tail: JSON_TAIL }))
}

/// Writes a page of objects, which are as they are stored. `whole` says which list it is, where it is all of one.
pub(super) async fn answer(call: &Call, page: Page, whole: Option<ListOf>) -> Result<Answer, ApiError> {
    let resource = &*call.served.resource;
    let form = call.form;
    if is_joined(call) {
        let head = json_head(resource, &page);
        let bare = Bare::of(&call.served);
        let commas = page.items.len().saturating_sub(1);
        let length = page.items.iter().map(|item| bare.length(item.json())).sum::<usize>() + commas;
        let keeping = whole.and_then(|whole| call.server.caches.kept_lists().asked(whole, length));
        let pieces = Pieces::new(Items::Json { comma: false, items: page.items.into_iter(), bare }, length);
        return Ok(streamed(form, List { head, items: Kept { pieces, keeping }, length, tail: JSON_TAIL }));
    }
    let as_stored = form.view == View::Whole && call.served.is_stored_form();
    let bytes: usize = page.items.iter().map(|item| item.json().len()).sum();
    let writing = Writing { served: call.served.clone(), form, now: call.server.config.clock.now(), page };
    let of = api::schema::type_of(resource).filter(|_| as_stored && form.syntax == Syntax::Protobuf);
    let write = move || match of {
        Some(of) => writing.protobuf(of),
        None => Ok(writing.decoded()),
    };
    if bytes <= IN_PLACE_MAX {
        return write();
    }
    let written = tokio::task::spawn_blocking(write).await;
    written
        .unwrap_or_else(|error| Err(ApiError::new(Reason::InternalError, format!("Internal error occurred: {error}"))))
}

const JSON_TAIL: &[u8] = b"]}\n";

fn json_head(resource: &Resource, page: &Page) -> Bytes {
    let (kind, version, metadata) = (&resource.kind, resource.api_version(), page.metadata());
    format!(r#"{{"kind":"{kind}List","apiVersion":"{version}","metadata":{metadata},"items":["#).into()
}

impl Writing {
    fn protobuf(self, of: TypeRef) -> Result<Answer, ApiError> {
        let metadata = self.page.metadata().to_string();
        let start = encode::list_head(metadata.as_bytes()).map_err(|why| respond::unwritable(&why))?;
        let items: Result<Vec<Bytes>, _> = self.page.items.iter().map(|item| item.protobuf(of)).collect();
        let items = items.map_err(|why| respond::unwritable(&why))?;
        let mut heads = Vec::new();
        for item in &items {
            encode::item_head(item.len(), &mut heads);
        }
        let length = heads.len() + items.iter().map(Bytes::len).sum::<usize>();
        let raw = start.len() + length;
        let kind = format!("{}List", self.served.resource.kind);
        let mut head = encode::envelope_head(&self.served.resource.api_version(), &kind, raw);
        head.extend_from_slice(&start);
        let items = Pieces::new(Items::Protobuf(items.into_iter()), length);
        Ok(streamed(self.form, List { head: head.into(), items, length, tail: encode::ENVELOPE_TAIL }))
    }

    /// Lists that need decoding: tables, YAML, and other forms than the stored one. Metadata alone is copied.
    fn decoded(self) -> Answer {
        let Self { served, form, now, page } = self;
        let metadata = page.metadata();
        let trees = page.items.iter().map(|item| conversion::from_stored(&served, item.to_value()));
        let list = match form.view {
            View::Metadata => return respond::encoded(StatusCode::OK, form, metadata_list(&metadata, &page.items)),
            View::Table => table::of_list(&served, form.rows, trees, &metadata, now),
            View::Whole => {
                let bare = Bare::of(&served);
                json!({"kind": format!("{}List", served.resource.kind), "apiVersion": served.resource.api_version(),
                "metadata": metadata, "items": trees.map(|tree| bare.tree(tree)).collect::<Vec<_>>()})
            }
        };
        respond::encoded(StatusCode::OK, form, list.to_string().into())
    }
}

fn metadata_list(metadata: &Value, items: &[Object]) -> Bytes {
    let head = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":"#;
    let mut out = format!(r#"{head}{metadata},"items":["#).into_bytes();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&respond::metadata_json(item.json()));
    }
    out.extend_from_slice(b"]}\n");
    out.into()
}

/// Items of a list of a built-in kind do not say their kind: the list does. Those of a custom resource do.
struct Bare {
    /// What an object's stored bytes begin with that its item lacks; empty where nothing does.
    head: Vec<u8>,
}

impl Bare {
    fn of(served: &Served) -> Self {
        let resource = &served.resource;
        if api::schema::type_of(resource).is_none() {
            return Self { head: Vec::new() };
        }
        Self { head: format!(r#"{{"apiVersion":"{}","kind":"{}","#, resource.api_version(), resource.kind).into() }
    }

    fn is_headed(&self, json: &[u8]) -> bool {
        !self.head.is_empty() && json.starts_with(&self.head)
    }

    /// How long an object is as an item.
    fn length(&self, json: &[u8]) -> usize {
        if self.is_headed(json) { json.len() + 1 - self.head.len() } else { json.len() }
    }

    /// An object as an item: what is first of it, which goes to `piece`, and the rest.
    fn item(&self, json: &Bytes, piece: &mut Vec<u8>) -> Bytes {
        if !self.is_headed(json) {
            return json.clone();
        }
        piece.push(b'{');
        json.slice(self.head.len()..)
    }

    fn tree(&self, mut item: Value) -> Value {
        if !self.head.is_empty()
            && let Some(fields) = item.as_object_mut()
        {
            fields.retain(|name, _| name != "apiVersion" && name != "kind");
        }
        item
    }
}

/// A list as it is sent.
struct List<I> {
    head: Bytes,
    /// In pieces, each made when it is asked for.
    items: I,
    /// How long they are together.
    length: usize,
    tail: &'static [u8],
}

fn streamed(form: Form, list: List<impl Iterator<Item = Bytes> + Send + 'static>) -> Answer {
    let media_type = form.syntax.media_type();
    let length = list.head.len() + list.length + list.tail.len();
    let pieces = std::iter::once(list.head).chain(list.items).chain([Bytes::from_static(list.tail)]);
    if length <= GZIP_MIN {
        let mut whole = Vec::with_capacity(length);
        pieces.for_each(|piece| whole.extend_from_slice(&piece));
        return respond::with_type(StatusCode::OK, media_type, Body::Full(whole.into()));
    }
    if form.gzip {
        let body = Body::Stream(stream::iter(Compressed::new(pieces)).map(Ok).boxed());
        let mut response = respond::with_type(StatusCode::OK, media_type, body);
        respond::mark_compressed(&mut response);
        return response;
    }
    let body = Body::Stream(stream::iter(pieces).map(Ok).boxed());
    let mut response = respond::with_type(StatusCode::OK, media_type, body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// A list's items in pieces of [`PIECE`] bytes, each made when it is asked for. Only the last is shorter.
struct Pieces {
    /// What goes out next: the rest of an item.
    part: Bytes,
    items: Items,
    /// What is left of all together.
    length: usize,
}

/// Pieces that are kept for the next who asks, where that was wanted.
struct Kept {
    pieces: Pieces,
    keeping: Option<Keeping>,
}

impl Iterator for Kept {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.next();
        match &piece {
            Some(piece) => self.keeping.iter_mut().for_each(|keeping| keeping.piece(piece)),
            None => self.keeping.take().into_iter().for_each(Keeping::end),
        }
        piece
    }
}

enum Items {
    /// With whether a comma comes next.
    Json {
        comma: bool,
        items: std::vec::IntoIter<Object>,
        bare: Bare,
    },
    Protobuf(std::vec::IntoIter<Bytes>),
}

impl Items {
    /// The next item, and in `piece` what stands before it; `None` when there is no other.
    fn next(&mut self, piece: &mut Vec<u8>) -> Option<Bytes> {
        match self {
            Self::Json { comma, items, bare } => {
                let item = items.next()?;
                if std::mem::replace(comma, true) {
                    piece.push(b',');
                }
                Some(bare.item(item.json(), piece))
            }
            Self::Protobuf(items) => {
                let item = items.next()?;
                encode::item_head(item.len(), piece);
                Some(item)
            }
        }
    }
}

impl Pieces {
    fn new(items: Items, length: usize) -> Self {
        Self { part: Bytes::new(), items, length }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        // What stands before an item may go beyond.
        let mut piece = Vec::with_capacity(self.length.min(PIECE + ITEM_HEAD_MAX));
        while piece.len() < PIECE {
            if self.part.is_empty() {
                let Some(next) = self.items.next(&mut piece) else { break };
                self.part = next;
            }
            let fits = self.part.len().min(PIECE.saturating_sub(piece.len()));
            piece.extend_from_slice(&self.part.split_to(fits));
        }
        self.length = self.length.saturating_sub(piece.len());
        (!piece.is_empty()).then(|| piece.into())
    }
}

/// Pieces as one gzip stream.
struct Compressed<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Compressed<I> {
    fn new(pieces: I) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Compressed<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        const CANNOT_FAIL: &str = "compressing into memory does not fail";
        let encoder = self.encoder.as_mut()?;
        while encoder.get_ref().len() < PIECE / 4 {
            let Some(piece) = self.pieces.next() else {
                let encoder = self.encoder.take()?;
                return Some(encoder.finish().expect(CANNOT_FAIL).into());
            };
            encoder.write_all(&piece).expect(CANNOT_FAIL);
        }
        Some(std::mem::take(encoder.get_mut()).into())
    }
}
