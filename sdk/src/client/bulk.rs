//! What takes more than one call: writing many points, and downloading a snapshot.

use std::{future::Future, num::NonZeroUsize};

use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Empty};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use qdrant_client::{
    QdrantError,
    qdrant::{PointsOperationResponse, SnapshotDownload, UpsertPoints},
};
use tonic::Status;

use super::{Qdrant, QdrantResult};
use crate::dispatch::sum_usage;

/// Chunks that are written at the same time: enough to keep every node of a common cluster busy.
const CHUNKS_AT_ONCE: usize = 8;

/// How far a bulk upload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Points that Qdrant has acknowledged.
    pub written: usize,
    /// All points of the upload.
    pub total: usize,
}

impl Qdrant {
    /// Inserts or overwrites many points in chunks of `chunk_size`.
    ///
    /// Several chunks are under way at a time, each dealt out to the nodes that hold its points. Of
    /// points with the same id in different chunks, any may win. The reply is that of the last chunk,
    /// with the times and the usage of all summed up, as the official client's is. A chunk that fails
    /// ends the upload; those under way with it may have been written.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that fails.
    pub async fn upsert_points_chunked(
        &self,
        request: impl Into<UpsertPoints>,
        chunk_size: usize,
    ) -> QdrantResult<PointsOperationResponse> {
        self.upsert_points_with_progress(request, chunk_size, |_| ()).await
    }

    /// The same, telling `progress` after each chunk.
    ///
    /// ```no_run
    /// # async fn example(client: qdrant_router::Qdrant) -> Result<(), Box<dyn std::error::Error>> {
    /// use qdrant_client::qdrant::{PointStruct, UpsertPointsBuilder};
    ///
    /// let points: Vec<PointStruct> =
    ///     (0..100_000_u64).map(|id| PointStruct::new(id, vec![0.1; 128], [("n", (id as i64).into())])).collect();
    /// client
    ///     .upsert_points_with_progress(UpsertPointsBuilder::new("books", points), 500, |progress| {
    ///         println!("{} of {}", progress.written, progress.total);
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the first chunk that fails.
    pub async fn upsert_points_with_progress(
        &self,
        request: impl Into<UpsertPoints>,
        chunk_size: usize,
        mut progress: impl FnMut(Progress),
    ) -> QdrantResult<PointsOperationResponse> {
        let mut request = request.into();
        let points = std::mem::take(&mut request.points);
        let total = points.len();
        let chunk_size = NonZeroUsize::new(chunk_size)
            .ok_or_else(|| QdrantError::ConversionError("a chunk has at least one point".to_owned()))?;
        if total <= chunk_size.get() {
            let reply = self.upsert_points(UpsertPoints { points, ..request }).await?;
            progress(Progress { written: total, total });
            return Ok(reply);
        }
        let chunks = chunks(points, chunk_size.get()).map(|points| {
            let written = points.len();
            let upsert = self.upsert_points(UpsertPoints { points, ..request.clone() });
            async move { upsert.await.map(|reply| (written, reply)) }
        });
        let mut replies = in_order(chunks);
        let mut sum = PointsOperationResponse::default();
        let mut written = 0;
        while let Some(reply) = replies.next().await {
            let (points, reply) = reply?;
            written += points;
            sum.result = reply.result;
            sum.time += reply.time;
            sum.usage = sum_usage(sum.usage, reply.usage);
            progress(Progress { written, total });
        }
        Ok(sum)
    }

    /// Downloads a snapshot of a collection to a file, which is replaced if it exists.
    ///
    /// Without a name, the first of [`list_snapshots`](Self::list_snapshots) is taken. The snapshot
    /// streams from the node that has it; `rest_api_uri` is not needed, because the router knows
    /// where REST is served, and is ignored.
    ///
    /// # Errors
    ///
    /// When there is no snapshot, the node answers with an error, or the file cannot be written.
    pub async fn download_snapshot(&self, download: impl Into<SnapshotDownload>) -> QdrantResult<()> {
        use tokio::io::AsyncWriteExt;

        let SnapshotDownload { out_path, collection_name, snapshot_name, .. } = download.into();
        let name = match snapshot_name {
            Some(name) => name,
            None => {
                let list = self.list_snapshots(collection_name.clone()).await?.snapshot_descriptions;
                let first = list.into_iter().next().map(|snapshot| snapshot.name);
                first.ok_or_else(|| QdrantError::NoSnapshotFound(collection_name.clone()))?
            }
        };
        let encode = |segment: &str| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string();
        let path = format!("/collections/{}/snapshots/{}", encode(&collection_name), encode(&name));
        let mut request = Request::get(path)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| QdrantError::ConversionError(error.to_string()))?;
        request.headers_mut().extend((*self.channel.headers).clone());
        let response = match tower::ServiceExt::oneshot(self.channel.router.clone(), request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if !response.status().is_success() {
            let message = format!("snapshot `{name}` of `{collection_name}`: {}", response.status());
            let status = match response.status() {
                http::StatusCode::NOT_FOUND => Status::not_found(message),
                http::StatusCode::UNAUTHORIZED => Status::unauthenticated(message),
                http::StatusCode::FORBIDDEN => Status::permission_denied(message),
                _ => Status::unavailable(message),
            };
            return Err(status.into());
        }
        let mut file = tokio::fs::File::create(&out_path).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(std::io::Error::other)?;
            if let Ok(data) = frame.into_data() {
                file.write_all(&data).await?;
            }
        }
        file.flush().await?;
        Ok(())
    }
}

fn chunks<T>(items: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(size).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Runs several futures at a time and yields their outputs in order.
fn in_order<F: Future>(futures: impl Iterator<Item = F>) -> impl stream::Stream<Item = F::Output> + Unpin {
    Box::pin(stream::iter(futures).buffered(CHUNKS_AT_ONCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_all_of_the_items_in_order() {
        for (count, size, expected) in [(0, 3, 0), (1, 3, 1), (3, 3, 1), (7, 3, 3)] {
            let chunks: Vec<Vec<u32>> = chunks((0..count).collect(), size).collect();
            assert_eq!(chunks.len(), expected);
            assert_eq!(chunks.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
