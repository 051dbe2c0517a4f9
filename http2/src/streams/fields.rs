//! The fields of a message.

use std::mem;

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery,
};

use super::{
    Streams,
    receive::{GARBLED, Violation},
};
use crate::{
    hpack::{self, Name, Pseudo},
    is_of_one_connection,
};

/// Fields, as they came.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pseudo: [Option<HeaderValue>; Pseudo::COUNT],
    pub(super) headers: HeaderMap,
    /// Whether there are more than may be. Those are left out.
    pub(super) is_too_long: bool,
    /// Whether pseudo-fields are where none may be, or come twice.
    is_disordered: bool,
}

// === impl Streams ===

impl Streams {
    /// Reads a block into `fields`. It has to be read whatever it is for: the next ones refer to it.
    pub(super) fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), Violation> {
        let most = self.limits.header_list_bytes as usize;
        let mut size = 0;
        let decoded = self.decoder.decode(block, |name, value| {
            size += hpack::size(&name, &value);
            match name {
                _ if size > most => fields.is_too_long = true,
                Name::Pseudo(pseudo) => {
                    let before = fields.pseudo[pseudo as usize].replace(value);
                    fields.is_disordered |= before.is_some() || !fields.headers.is_empty();
                }
                Name::Header(name) => {
                    fields.headers.append(name, value);
                }
            }
        });
        decoded.map_err(|hpack::Garbled| GARBLED)
    }
}

// === impl Fields ===

impl Fields {
    fn has(&self, pseudo: Pseudo) -> bool {
        self.pseudo[pseudo as usize].is_some()
    }

    fn take(&mut self, pseudo: Pseudo) -> Option<HeaderValue> {
        self.pseudo[pseudo as usize].take()
    }

    /// Whether an answer may have them.
    pub(super) fn are_of_answer(&self) -> bool {
        let foreign = [Pseudo::Authority, Pseudo::Method, Pseudo::Path, Pseudo::Scheme];
        !self.is_disordered && !foreign.into_iter().any(|pseudo| self.has(pseudo))
    }

    /// The status of an answer, where these are the fields of its head.
    pub(super) fn status(&self) -> Option<StatusCode> {
        let status = self.pseudo[Pseudo::Status as usize].as_ref()?;
        StatusCode::from_bytes(status.as_bytes()).ok()
    }

    /// The head of an answer.
    pub(super) fn response(&mut self, status: StatusCode) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = mem::take(&mut self.headers);
        response
    }

    /// The head of a request, with its path alone: on whom and by which scheme it was called is not looked at. `None`
    /// where it is malformed.
    pub(super) fn request(&mut self) -> Option<Request<()>> {
        let method = Method::from_bytes(self.take(Pseudo::Method)?.as_bytes()).ok()?;
        let is_connect = method == Method::CONNECT;
        let is_whole = is_connect || self.has(Pseudo::Scheme) && self.has(Pseudo::Path);
        if !is_whole || self.is_disordered || self.has(Pseudo::Status) || !are_end_to_end(&self.headers) {
            return None;
        }
        let mut request = Request::new(());
        if let Some(path) = self.take(Pseudo::Path) {
            if path.is_empty() || is_connect {
                return None;
            }
            *request.uri_mut() = Uri::from(PathAndQuery::try_from(path.as_bytes()).ok()?);
        }
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = mem::take(&mut self.headers);
        Some(request)
    }

    /// The trailers of a request; `None` where they are malformed.
    pub(super) fn trailers(&mut self) -> Option<HeaderMap> {
        let has_pseudo = self.pseudo.iter().any(Option::is_some);
        (!has_pseudo && are_end_to_end(&self.headers)).then(|| mem::take(&mut self.headers))
    }
}

/// Whether no header concerns a connection of HTTP/1.1, on which it would mean something else.
fn are_end_to_end(headers: &HeaderMap) -> bool {
    headers.iter().all(|(name, value)| match *name {
        header::TE => value == "trailers",
        ref name => !is_of_one_connection(name),
    })
}
