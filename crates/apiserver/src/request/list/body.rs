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
use crate::request::Call;
use crate::request::negotiate::{Form, Syntax, View};
use crate::request::respond::{self, Answer, GZIP_MIN};
use crate::server::Served;
use crate::{conversion, table};

/// How much of a list is copied into one piece.
const PIECE: usize = 64 * 1024;

/// Larger lists are decoded or encoded away from the runtime's threads: this much takes them about a millisecond.
const IN_PLACE_MAX: usize = 128 * 1024;

/// A page to be written, with all that writing takes.
struct Writing {
    served: Arc<Served>,
    form: Form,
    now: jiff::Timestamp,
    page: Page,
}

/// Writes a page of objects, which are as they are stored.
pub(super) async fn answer(call: &Call, page: Page) -> Result<Answer, ApiError> {
    let resource = &*call.served.resource;
    let form = call.form;
    let as_stored = form.view == View::Whole && call.served.is_stored_form();
    if as_stored && form.syntax == Syntax::Json && !form.pretty {
        return Ok(streamed(form, json_pieces(resource, page)));
    }
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

fn json_pieces(resource: &Resource, page: Page) -> Pieces {
    let (kind, version) = (format!("{}List", resource.kind), resource.api_version());
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{},"items":["#, page.metadata());
    let commas = page.items.len().saturating_sub(1);
    let length = head.len() + page.items.iter().map(|item| item.json().len()).sum::<usize>() + commas + 3;
    let items = Items::Json { first: true, items: page.items.into_iter() };
    Pieces { head: Some(head.into_bytes()), items, tail: Some(b"]}\n"), length }
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
        let raw = start.len() + heads.len() + items.iter().map(Bytes::len).sum::<usize>();
        let kind = format!("{}List", self.served.resource.kind);
        let mut head = encode::envelope_head(&self.served.resource.api_version(), &kind, raw);
        let length = head.len() + raw + encode::ENVELOPE_TAIL.len();
        head.extend_from_slice(&start);
        let items = Items::Protobuf(items.into_iter());
        Ok(streamed(self.form, Pieces { head: Some(head), items, tail: Some(encode::ENVELOPE_TAIL), length }))
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
                json!({"kind": format!("{}List", served.resource.kind), "apiVersion": served.resource.api_version(),
                "metadata": metadata, "items": trees.collect::<Vec<_>>()})
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

fn streamed(form: Form, pieces: Pieces) -> Answer {
    let (media_type, length) = (form.syntax.media_type(), pieces.length);
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

/// A list in pieces of about [`PIECE`] bytes, each made when it is asked for.
struct Pieces {
    head: Option<Vec<u8>>,
    items: Items,
    /// Nothing follows once it is taken.
    tail: Option<&'static [u8]>,
    /// All of it together.
    length: usize,
}

enum Items {
    Json { first: bool, items: std::vec::IntoIter<Object> },
    Protobuf(std::vec::IntoIter<Bytes>),
}

impl Items {
    /// Appends the next item and what stands before it; false when there is none.
    fn append_next(&mut self, piece: &mut Vec<u8>) -> bool {
        match self {
            Self::Json { first, items } => {
                let Some(item) = items.next() else { return false };
                if !std::mem::take(first) {
                    piece.push(b',');
                }
                piece.extend_from_slice(item.json());
            }
            Self::Protobuf(items) => {
                let Some(item) = items.next() else { return false };
                encode::item_head(item.len(), piece);
                piece.extend_from_slice(&item);
            }
        }
        true
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let tail = self.tail?;
        let mut piece = self.head.take().unwrap_or_default();
        piece.reserve(PIECE);
        while piece.len() < PIECE {
            if !self.items.append_next(&mut piece) {
                piece.extend_from_slice(tail);
                self.tail = None;
                break;
            }
        }
        Some(piece.into())
    }
}

/// Pieces as one gzip stream.
struct Compressed {
    pieces: Pieces,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Compressed {
    fn new(pieces: Pieces) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Iterator for Compressed {
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
