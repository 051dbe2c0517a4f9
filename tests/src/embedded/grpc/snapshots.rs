//! `qdrant.Snapshots` and `qdrant.Qdrant`.

use std::time::Instant;

use qdrant_client::qdrant as pb;
use qdrant_client::qdrant::qdrant_server::Qdrant;
use qdrant_client::qdrant::snapshots_server::Snapshots;
use tonic::{Request, Response, Status};

use super::super::engine::Scope;
use super::super::error::OpResult;
use super::super::shard::SnapshotFile;
use super::{Front, output};

type Answer<T> = Result<Response<T>, Status>;

impl Front {
    fn created(&self, of: Scope<'_>) -> Answer<pb::CreateSnapshotResponse> {
        let began = Instant::now();
        let snapshot = self.engine.create_snapshot(of)?;
        Ok(Response::new(pb::CreateSnapshotResponse {
            snapshot_description: Some(describe(snapshot)),
            time: output::seconds(began),
        }))
    }

    fn listed(&self, of: Scope<'_>) -> Answer<pb::ListSnapshotsResponse> {
        let began = Instant::now();
        let snapshots: OpResult<Vec<_>> = self.engine.list_snapshots(of);
        Ok(Response::new(pb::ListSnapshotsResponse {
            snapshot_descriptions: snapshots?.into_iter().map(describe).collect(),
            time: output::seconds(began),
        }))
    }

    fn deleted(&self, of: Scope<'_>, name: &str) -> Answer<pb::DeleteSnapshotResponse> {
        let began = Instant::now();
        self.engine.delete_snapshot(of, name)?;
        Ok(Response::new(pb::DeleteSnapshotResponse { time: output::seconds(began) }))
    }
}

fn describe(snapshot: SnapshotFile) -> pb::SnapshotDescription {
    let checksum = Some(snapshot.checksum());
    pb::SnapshotDescription {
        name: snapshot.name,
        creation_time: snapshot.created.parse().ok(),
        size: i64::try_from(snapshot.content.len()).unwrap_or(i64::MAX),
        checksum,
    }
}

#[tonic::async_trait]
impl Snapshots for Front {
    async fn create(
        &self,
        request: Request<pb::CreateSnapshotRequest>,
    ) -> Answer<pb::CreateSnapshotResponse> {
        self.created(Scope::Collection(&request.into_inner().collection_name))
    }

    async fn list(&self, request: Request<pb::ListSnapshotsRequest>) -> Answer<pb::ListSnapshotsResponse> {
        self.listed(Scope::Collection(&request.into_inner().collection_name))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteSnapshotRequest>,
    ) -> Answer<pb::DeleteSnapshotResponse> {
        let request = request.into_inner();
        self.deleted(Scope::Collection(&request.collection_name), &request.snapshot_name)
    }

    async fn create_full(
        &self,
        _: Request<pb::CreateFullSnapshotRequest>,
    ) -> Answer<pb::CreateSnapshotResponse> {
        self.created(Scope::Full)
    }

    async fn list_full(&self, _: Request<pb::ListFullSnapshotsRequest>) -> Answer<pb::ListSnapshotsResponse> {
        self.listed(Scope::Full)
    }

    async fn delete_full(
        &self,
        request: Request<pb::DeleteFullSnapshotRequest>,
    ) -> Answer<pb::DeleteSnapshotResponse> {
        self.deleted(Scope::Full, &request.into_inner().snapshot_name)
    }
}

#[tonic::async_trait]
impl Qdrant for Front {
    async fn health_check(&self, _: Request<pb::HealthCheckRequest>) -> Answer<pb::HealthCheckReply> {
        Ok(Response::new(pb::HealthCheckReply {
            title: "qdrant - vector search engine".to_owned(),
            version: self.engine.version.text(),
            commit: Some("embedded".to_owned()),
        }))
    }
}
