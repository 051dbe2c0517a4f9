//! Request bodies: collected where they must be looked into or sent again, streamed where not.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use qdrant_router_http2::TURN_BYTES;

use super::{Protocol, grpc};

/// A piece of this size goes on alone.
const LONG: usize = 4 << 10;

/// Shorter ones are gathered in blocks.
const BLOCK: usize = 64 << 10;

/// Any error, as bodies of any kind have them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request on its way to a node.
#[derive(Debug)]
pub(crate) enum Body {
    /// In memory; can be sent again.
    Full(Bytes),
    /// Read from the client as the node takes it; can be sent once.
    Stream(Incoming),
}

/// A body that comes from a client. What is there at once goes on at once: each piece costs a call of the system on its
/// way to the node, and a client may send thousands of single bytes.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: UnsyncBoxBody<Bytes, BoxError>,
    end: Option<Result<(), BoxError>>,
}

/// What [`collect`] made of a body.
#[derive(Debug)]
pub(crate) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// It is larger than the limit, and is streamed from its first byte.
    TooLarge {
        /// What has come so far.
        read: Bytes,
        /// All of it.
        body: Body,
    },
}

// === impl Body ===

impl Body {
    /// Streams `body`.
    pub(crate) fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() { Self::Full(Bytes::new()) } else { Self::Stream(Incoming::new(body)) }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => stream.poll_data(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.body.size_hint(),
        }
    }
}

// === impl Incoming ===

impl Incoming {
    fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { body: body.map_err(Into::into).boxed_unsync(), end: None }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let mut chunks = Chunks::default();
        while chunks.length < LONG && self.end.is_none() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of a request have no meaning to Qdrant, whose REST server takes them for a broken body.
                    chunks.push(frame.into_data().unwrap_or_default());
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending if chunks.length == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if chunks.length > 0 {
            return Poll::Ready(Some(Ok(chunks.into_bytes())));
        }
        let end = self.end.replace(Ok(()));
        Poll::Ready(end.and_then(Result::err).map(Err))
    }

    fn is_over(&self) -> bool {
        matches!(self.end, Some(Ok(()))) || self.end.is_none() && self.body.is_end_stream()
    }
}

/// Reads `body` into memory, up to `limit` bytes, and as long as `hold` takes each further number of bytes.
///
/// # Errors
///
/// When the client breaks off.
pub(crate) async fn collect<B>(
    protocol: Protocol,
    body: B,
    limit: usize,
    mut hold: impl FnMut(usize) -> bool,
) -> Result<Collected, BoxError>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let announced = body.size_hint();
    // Of a body that is announced as too large, the beginning may still tell the collection.
    let limit = match usize::try_from(announced.lower()) {
        Ok(length) if length <= limit => limit,
        _ => 0,
    };
    let mut body = body.map_err(Into::into).boxed_unsync();
    let mut turn = 0;
    let mut chunks = Chunks::of(announced.exact().and_then(|length| usize::try_from(length).ok()));
    while let Some(frame) = body.frame().await {
        // Trailers of a request have no meaning to Qdrant.
        let Ok(data) = frame?.into_data() else { continue };
        if chunks.length + data.len() > limit || !hold(data.len()) {
            // Nothing is reserved for the rest, which is not to be kept.
            chunks.announced = 0;
            chunks.push(data);
            let read = chunks.gather().await;
            let resumed = Resumed { read: Some(read.clone()), rest: body };
            return Ok(Collected::TooLarge { read, body: Body::Stream(Incoming::new(resumed)) });
        }
        // A call of gRPC does not say how long it is, but its one message does.
        if chunks.length == 0 && chunks.announced == 0 && protocol == Protocol::Grpc {
            chunks.announced = grpc::announced(&data).filter(|&length| length <= limit).unwrap_or(0);
        }
        turn += data.len();
        chunks.push(data);
        if turn >= TURN_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(Collected::Whole(chunks.gather().await))
}

/// Gathers chunks; a body that comes in one piece is not copied.
///
/// A buffer that grows is copied over and over, for milliseconds at a time where the body is large. So chunks go to
/// their place at once only where that is known from the beginning; else they are kept as they are until all have come.
#[derive(Default)]
struct Chunks {
    announced: usize,
    first: Bytes,
    more: Vec<Bytes>,
    /// Short chunks, which would take more memory each by itself; all chunks, where their place is known.
    gathered: BytesMut,
    length: usize,
}

impl Chunks {
    /// Of a body of this length, as far as it has told.
    fn of(length: Option<usize>) -> Self {
        Self { announced: length.unwrap_or(0), ..Self::default() }
    }

    fn push(&mut self, data: Bytes) {
        self.length += data.len();
        if self.length > self.announced && self.announced > 0 {
            // It lied, and has no place of its own any more.
            self.announced = 0;
            self.more.extend((!self.gathered.is_empty()).then(|| self.gathered.split().freeze()));
        }
        if self.length == data.len() {
            self.first = data;
        } else if self.announced > 0 {
            if self.gathered.is_empty() {
                self.gathered.reserve(self.announced);
                self.gathered.extend_from_slice(&self.first);
                self.first = Bytes::new();
            }
            self.gathered.extend_from_slice(&data);
        } else if data.len() < LONG {
            self.gathered.extend_from_slice(&data);
            if self.gathered.len() >= BLOCK {
                self.more.push(self.gathered.split().freeze());
            }
        } else {
            if !self.gathered.is_empty() {
                self.more.push(self.gathered.split().freeze());
            }
            self.more.push(data);
        }
    }

    /// All of it, with others having their turn in between.
    async fn gather(self) -> Bytes {
        if self.more.is_empty() {
            return self.into_bytes();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        let mut turn = 0;
        for chunk in self.in_order() {
            whole.extend_from_slice(&chunk);
            turn += chunk.len();
            if turn >= TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        whole.freeze()
    }

    /// All of it, at once.
    fn into_bytes(self) -> Bytes {
        if self.more.is_empty() && self.gathered.is_empty() {
            return self.first;
        }
        if self.more.is_empty() && self.first.is_empty() {
            return self.gathered.freeze();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        self.in_order().for_each(|chunk| whole.extend_from_slice(&chunk));
        whole.freeze()
    }

    fn in_order(self) -> impl Iterator<Item = Bytes> {
        [self.first].into_iter().chain(self.more).chain([self.gathered.freeze()])
    }
}

/// What was read of a body, then the rest of it.
struct Resumed {
    read: Option<Bytes>,
    rest: UnsyncBoxBody<Bytes, BoxError>,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(read) = this.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        Poll::Ready(ready!(Pin::new(&mut this.rest).poll_frame(cx)))
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        pin::pin,
    };

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn chunked(chunks: &[&'static str]) -> impl HttpBody<Data = Bytes, Error = BoxError> + Send + use<> {
        let frames: Vec<Result<Frame<Bytes>, BoxError>> =
            chunks.iter().map(|&chunk| Ok(Frame::data(Bytes::from(chunk)))).collect();
        StreamBody::new(stream::iter(frames))
    }

    /// A body that may tell its length in advance.
    struct Announced<B>(B, Option<u64>);

    impl<B: HttpBody + Unpin> HttpBody for Announced<B> {
        type Data = B::Data;
        type Error = B::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            self.1.map_or_else(SizeHint::new, SizeHint::with_exact)
        }
    }

    async fn read(body: Body) -> Bytes {
        body.collect().await.expect("a body").to_bytes()
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_collected() {
        for (body, expected) in
            [(&[][..], ""), (&["abcd"], "abcd"), (&["ab", "", "cd"], "abcd"), (&["", "abcd"], "abcd")]
        {
            match collect(Protocol::Rest, chunked(body), 4, |_| true).await.expect("no error") {
                Collected::Whole(bytes) => assert_eq!(bytes, expected),
                Collected::TooLarge { .. } => panic!("{body:?} fits"),
            }
        }
    }

    #[tokio::test]
    async fn a_larger_one_is_streamed_from_its_first_byte() {
        match collect(Protocol::Rest, chunked(&["ab", "cd", "ef"]), 4, |_| true).await.expect("no error") {
            Collected::TooLarge { read: seen, body } => {
                assert_eq!((seen, read(body).await), ("abcdef".into(), "abcdef".into()));
            }
            Collected::Whole(_) => panic!("it does not fit"),
        }
    }

    #[tokio::test]
    async fn so_is_one_that_there_is_no_room_for() {
        let mut room = 3;
        let hold = |bytes| {
            room -= i32::try_from(bytes).expect("short");
            room >= 0
        };
        match collect(Protocol::Rest, chunked(&["ab", "cd", "ef"]), 100, hold).await.expect("no error") {
            Collected::TooLarge { read: seen, body } => {
                assert_eq!((seen, read(body).await), ("abcd".into(), "abcdef".into()));
            }
            Collected::Whole(_) => panic!("it does not fit"),
        }
    }

    #[tokio::test]
    async fn chunks_of_all_sizes_are_put_together_in_their_order() {
        for announced in [false, true] {
            let sizes =
                [1, 0, 5_000, 3, LONG, 100_000, 2, 2].into_iter().chain([700; 200]).chain([400_000, 9]);
            let chunks: Vec<Bytes> =
                sizes.enumerate().map(|(n, size)| Bytes::from(vec![n as u8; size])).collect();
            let whole = chunks.concat();
            let frames = stream::iter(chunks.into_iter().map(|data| Ok::<_, BoxError>(Frame::data(data))));
            let length = announced.then_some(whole.len() as u64);
            let collected =
                collect(Protocol::Rest, Announced(StreamBody::new(frames), length), usize::MAX, |_| true)
                    .await;
            let Ok(Collected::Whole(bytes)) = collected else { panic!("{collected:?}") };
            assert!(bytes == whole, "announced: {announced}");
        }
    }

    #[tokio::test]
    async fn a_call_goes_to_its_place_however_long_it_says_it_is() {
        for said in [0, 1, 30_000, 99_995, 99_996, 200_000, u32::MAX] {
            let whole = [&[0][..], &said.to_be_bytes(), &[7; 99_995]].concat();
            for size in [3, 5, 1_000, 16_384, whole.len()] {
                let chunks: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
                let frames =
                    stream::iter(chunks.into_iter().map(|data| Ok::<_, BoxError>(Frame::data(data))));
                let collected = collect(Protocol::Grpc, StreamBody::new(frames), 1 << 20, |_| true)
                    .await
                    .expect("a body");
                let Collected::Whole(bytes) = collected else { panic!("it fits") };
                assert!(bytes == whole, "{said} in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_call_that_tells_its_length_is_not_put_together_in_the_end() {
        let length = 4 * TURN_BYTES;
        for (said, is_in_place) in [(length, true), (length - 1, false)] {
            let head = [&[0][..], &u32::try_from(said).expect("short").to_be_bytes()].concat();
            let pieces = std::iter::once(Bytes::from(head))
                .chain(std::iter::repeat_n(Bytes::from(vec![7; LONG]), length / LONG));
            let frames =
                stream::iter(pieces.map(|data| Ok::<_, BoxError>(Frame::data(data))).collect::<Vec<_>>());
            let mut collected = pin!(collect(Protocol::Grpc, StreamBody::new(frames), 1 << 30, |_| true));
            let mut turns = 0;
            poll_fn(|cx| {
                turns += 1;
                collected.as_mut().poll(cx)
            })
            .await
            .expect("a body");
            // To read it takes four turns, and to put it together more of them.
            assert_eq!(turns == 5, is_in_place, "{turns} turns for {said} of {length}");
        }
    }

    #[tokio::test]
    async fn what_is_there_at_once_goes_on_at_once() {
        let long = Bytes::from(vec![b'l'; LONG]);
        let short = |number: usize| (0..number).map(|_| Ok(Frame::data(Bytes::from_static(b"s"))));
        let broken = || [Err::<Frame<Bytes>, BoxError>("broken".into())];
        let frames = short(600).chain([Ok(Frame::data(long))]).chain(short(3)).chain(broken());
        let mut body = Body::stream(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
        for expected in [600 + LONG, 3] {
            let data = body.frame().await.expect("a frame").expect("data").into_data().expect("data");
            assert_eq!(data.len(), expected);
        }
        let error = body.frame().await.expect("an end").expect_err("it broke off");
        assert_eq!(error.to_string(), "broken");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn trailers_of_a_streamed_body_stay_behind() {
        let trailers = Frame::trailers(http::HeaderMap::from_iter([(
            http::header::HOST,
            "q".parse().expect("a value"),
        )]));
        let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"ab"))), Ok(trailers)];
        let body = Body::stream(StreamBody::new(stream::iter(frames))).collect().await.expect("a body");
        assert_eq!(body.trailers(), None);
        assert_eq!(body.to_bytes(), "ab");
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_known_at_the_first_chunk() {
        match collect(Protocol::Rest, Full::new(Bytes::from_static(b"abcdef")), 4, |_| true)
            .await
            .expect("no error")
        {
            Collected::TooLarge { body, .. } => {
                assert_eq!(body.size_hint().exact(), Some(6));
                assert_eq!(read(body).await, "abcdef");
            }
            Collected::Whole(_) => panic!("it does not fit"),
        }
    }
}
