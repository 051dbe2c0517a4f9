//! `qdrant.Points`.

use std::time::Instant;

use qdrant_client::qdrant as pb;
use qdrant_client::qdrant::points_server::Points;
use tonic::{Request, Response, Status};

use super::super::affinity::{self, Affinity};
use super::super::error::{OpError, OpResult};
use super::super::model::{
    KeySelector, Query, Read, Scored, Update, UpdateResult, UpdateStatus, WithPayload, WriteParams,
};
use super::{Front, filter, input, lacking, output};

type Answer<T> = Result<Response<T>, Status>;

impl Front {
    async fn write(
        &self,
        collection: &str,
        update: OpResult<Update>,
        keys: Option<pb::ShardKeySelector>,
        params: OpResult<WriteParams>,
    ) -> Answer<pb::PointsOperationResponse> {
        let began = Instant::now();
        let keys = input::keys(keys)?;
        let result = self.engine.update(collection, update?, keys.as_ref(), params?).await?;
        Ok(written(result, began))
    }

    /// A read and the token that came with it.
    fn open<T>(&self, request: Request<T>) -> (Option<Affinity>, T) {
        let (metadata, _, message) = request.into_parts();
        let token = metadata.get(affinity::HEADER).map(tonic::metadata::MetadataValue::as_bytes);
        (self.engine.affinity(token), message)
    }

    /// Runs queries one way or the other.
    async fn queries(
        &self,
        collection: &str,
        queries: OpResult<Vec<Query>>,
        params: OpResult<super::super::model::ReadParams>,
        searching: bool,
    ) -> Result<Vec<Vec<Scored>>, Status> {
        let (queries, params) = (queries?, params?);
        let lists = if searching {
            self.engine.search(collection, queries, params).await
        } else {
            self.engine.query(collection, queries, params).await
        };
        Ok(lists?)
    }
}

fn written(result: UpdateResult, began: Instant) -> Response<pb::PointsOperationResponse> {
    Response::new(pb::PointsOperationResponse {
        result: Some(output::update_result(result)),
        time: output::seconds(began),
        usage: None,
    })
}

fn first(lists: Vec<Vec<Scored>>) -> Vec<pb::ScoredPoint> {
    output::scored(lists.into_iter().next().unwrap_or_default())
}

fn batches(lists: Vec<Vec<Scored>>) -> Vec<pb::BatchResult> {
    lists.into_iter().map(|hits| pb::BatchResult { result: output::scored(hits) }).collect()
}

/// The outcome of a call that leaves a log entry and nothing to count.
fn logged(wait: Option<bool>) -> UpdateResult {
    let status = if wait.unwrap_or(false) { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    UpdateResult { operation_id: Some(0), status }
}

fn upsert(
    points: Vec<pb::PointStruct>,
    condition: Option<pb::Filter>,
    mode: Option<i32>,
) -> OpResult<Update> {
    Ok(Update::Upsert {
        points: input::points(points)?,
        condition: filter::optional(condition)?,
        mode: input::update_mode(mode),
    })
}

#[tonic::async_trait]
impl Points for Front {
    async fn upsert(&self, request: Request<pb::UpsertPoints>) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let update = upsert(request.points, request.update_filter, request.update_mode);
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn delete(&self, request: Request<pb::DeletePoints>) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let update = input::selector(request.points).map(|selector| Update::Delete { selector });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn update_vectors(
        &self,
        request: Request<pb::UpdatePointVectors>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let condition = filter::optional(request.update_filter)?;
        let update =
            input::point_vectors(request.points).map(|points| Update::SetVectors { points, condition });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn delete_vectors(
        &self,
        request: Request<pb::DeletePointVectors>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let names = request.vectors.unwrap_or_default().names;
        let update = input::selector(request.points_selector)
            .map(|selector| Update::DeleteVectors { selector, names });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn set_payload(
        &self,
        request: Request<pb::SetPayloadPoints>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let (payload, key) = (input::payload(request.payload), request.key);
        let update = payload.and_then(|payload| {
            Ok(Update::SetPayload { payload, selector: input::selector(request.points_selector)?, key })
        });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn overwrite_payload(
        &self,
        request: Request<pb::SetPayloadPoints>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let update = input::payload(request.payload).and_then(|payload| {
            Ok(Update::OverwritePayload { payload, selector: input::selector(request.points_selector)? })
        });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn delete_payload(
        &self,
        request: Request<pb::DeletePayloadPoints>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let keys = request.keys;
        let update =
            input::selector(request.points_selector).map(|selector| Update::DeletePayload { keys, selector });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn clear_payload(
        &self,
        request: Request<pb::ClearPayloadPoints>,
    ) -> Answer<pb::PointsOperationResponse> {
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout);
        let update = input::selector(request.points).map(|selector| Update::ClearPayload { selector });
        self.write(&request.collection_name, update, request.shard_key_selector, params).await
    }

    async fn update_batch(&self, request: Request<pb::UpdateBatchPoints>) -> Answer<pb::UpdateBatchResponse> {
        let began = Instant::now();
        let request = request.into_inner();
        let params = input::write_params(request.wait, request.ordering, request.timeout)?;
        let mut result = Vec::with_capacity(request.operations.len());
        for operation in request.operations {
            let (updates, keys): (Vec<Update>, Option<KeySelector>) = input::operation(operation)?;
            for update in updates {
                let done =
                    self.engine.update(&request.collection_name, update, keys.as_ref(), params).await?;
                result.push(output::update_result(done));
            }
        }
        Ok(Response::new(pb::UpdateBatchResponse { result, time: output::seconds(began), usage: None }))
    }

    async fn create_field_index(
        &self,
        request: Request<pb::CreateFieldIndexCollection>,
    ) -> Answer<pb::PointsOperationResponse> {
        let began = Instant::now();
        let request = request.into_inner();
        self.engine.create_index(&request.collection_name, &request.field_name, "keyword".into())?;
        Ok(written(logged(request.wait), began))
    }

    async fn delete_field_index(
        &self,
        request: Request<pb::DeleteFieldIndexCollection>,
    ) -> Answer<pb::PointsOperationResponse> {
        let began = Instant::now();
        let request = request.into_inner();
        self.engine.delete_index(&request.collection_name, &request.field_name)?;
        Ok(written(logged(request.wait), began))
    }

    async fn create_vector_name(
        &self,
        _: Request<pb::CreateVectorNameRequest>,
    ) -> Answer<pb::PointsOperationResponse> {
        Err(lacking("CreateVectorName"))
    }

    async fn delete_vector_name(
        &self,
        _: Request<pb::DeleteVectorNameRequest>,
    ) -> Answer<pb::PointsOperationResponse> {
        Err(lacking("DeleteVectorName"))
    }

    async fn get(&self, request: Request<pb::GetPoints>) -> Answer<pb::GetResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        let keys = input::keys(request.shard_key_selector)?;
        let found = self
            .engine
            .retrieve(
                &request.collection_name,
                input::ids(request.ids)?,
                input::with_payload(request.with_payload, WithPayload::None),
                input::with_vectors(request.with_vectors),
                keys.as_ref(),
                input::read_params(request.read_consistency, request.timeout, affinity)?,
            )
            .await?;
        let result = found.into_iter().map(output::record).collect();
        Ok(Response::new(pb::GetResponse { result, time: output::seconds(began), usage: None }))
    }

    async fn scroll(&self, request: Request<pb::ScrollPoints>) -> Answer<pb::ScrollResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        if request.order_by.is_some() {
            return Err(OpError::lacking("order_by").into());
        }
        let read = Read::Scroll {
            offset: request.offset.map(input::point_id).transpose()?,
            limit: request.limit.map_or(10, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            filter: filter::optional(request.filter)?,
            with_payload: input::with_payload(request.with_payload, WithPayload::All),
            with_vectors: input::with_vectors(request.with_vectors),
        };
        let keys = input::keys(request.shard_key_selector)?;
        let params = input::read_params(request.read_consistency, request.timeout, affinity)?;
        let page = self.engine.scroll(&request.collection_name, read, keys.as_ref(), params).await?;
        Ok(Response::new(pb::ScrollResponse {
            next_page_offset: page.next.map(output::point_id),
            result: page.points.into_iter().map(output::record).collect(),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn count(&self, request: Request<pb::CountPoints>) -> Answer<pb::CountResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        let keys = input::keys(request.shard_key_selector)?;
        let params = input::read_params(request.read_consistency, request.timeout, affinity)?;
        let filter = filter::optional(request.filter)?;
        let count = self.engine.count(&request.collection_name, filter, keys.as_ref(), params).await?;
        Ok(Response::new(pb::CountResponse {
            result: Some(pb::CountResult { count }),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn query(&self, request: Request<pb::QueryPoints>) -> Answer<pb::QueryResponse> {
        let began = Instant::now();
        let (affinity, mut request) = self.open(request);
        let params = input::read_params(request.read_consistency.take(), request.timeout, affinity);
        let collection = request.collection_name.clone();
        let query = input::query(request).map(|query| vec![query]);
        let lists = self.queries(&collection, query, params, false).await?;
        Ok(Response::new(pb::QueryResponse {
            result: first(lists),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn query_batch(&self, request: Request<pb::QueryBatchPoints>) -> Answer<pb::QueryBatchResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        let params = input::read_params(request.read_consistency, request.timeout, affinity);
        let queries = request.query_points.into_iter().map(input::query).collect();
        let lists = self.queries(&request.collection_name, queries, params, false).await?;
        Ok(Response::new(pb::QueryBatchResponse {
            result: batches(lists),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn search(&self, request: Request<pb::SearchPoints>) -> Answer<pb::SearchResponse> {
        let began = Instant::now();
        let (affinity, mut request) = self.open(request);
        let params = input::read_params(request.read_consistency.take(), request.timeout, affinity);
        let collection = request.collection_name.clone();
        let query = input::search(request).map(|query| vec![query]);
        let lists = self.queries(&collection, query, params, true).await?;
        Ok(Response::new(pb::SearchResponse {
            result: first(lists),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn search_batch(&self, request: Request<pb::SearchBatchPoints>) -> Answer<pb::SearchBatchResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        let params = input::read_params(request.read_consistency, request.timeout, affinity);
        let queries = request.search_points.into_iter().map(input::search).collect();
        let lists = self.queries(&request.collection_name, queries, params, true).await?;
        Ok(Response::new(pb::SearchBatchResponse {
            result: batches(lists),
            time: output::seconds(began),
            usage: None,
        }))
    }

    async fn facet(&self, request: Request<pb::FacetCounts>) -> Answer<pb::FacetResponse> {
        let began = Instant::now();
        let (affinity, request) = self.open(request);
        let keys = input::keys(request.shard_key_selector)?;
        let params = input::read_params(request.read_consistency, request.timeout, affinity)?;
        let filter = filter::optional(request.filter)?;
        let limit = usize::try_from(request.limit.unwrap_or(10)).unwrap_or(usize::MAX);
        let hits = self
            .engine
            .facet(&request.collection_name, request.key, filter, limit, keys.as_ref(), params)
            .await?;
        let hits = hits.into_iter().map(output::facet_hit).collect();
        Ok(Response::new(pb::FacetResponse { hits, time: output::seconds(began), usage: None }))
    }

    async fn search_groups(&self, _: Request<pb::SearchPointGroups>) -> Answer<pb::SearchGroupsResponse> {
        Err(lacking("SearchGroups"))
    }

    async fn recommend(&self, _: Request<pb::RecommendPoints>) -> Answer<pb::RecommendResponse> {
        Err(lacking("Recommend"))
    }

    async fn recommend_batch(
        &self,
        _: Request<pb::RecommendBatchPoints>,
    ) -> Answer<pb::RecommendBatchResponse> {
        Err(lacking("RecommendBatch"))
    }

    async fn recommend_groups(
        &self,
        _: Request<pb::RecommendPointGroups>,
    ) -> Answer<pb::RecommendGroupsResponse> {
        Err(lacking("RecommendGroups"))
    }

    async fn discover(&self, _: Request<pb::DiscoverPoints>) -> Answer<pb::DiscoverResponse> {
        Err(lacking("Discover"))
    }

    async fn discover_batch(&self, _: Request<pb::DiscoverBatchPoints>) -> Answer<pb::DiscoverBatchResponse> {
        Err(lacking("DiscoverBatch"))
    }

    async fn query_groups(&self, _: Request<pb::QueryPointGroups>) -> Answer<pb::QueryGroupsResponse> {
        Err(lacking("QueryGroups"))
    }

    async fn search_matrix_pairs(
        &self,
        _: Request<pb::SearchMatrixPoints>,
    ) -> Answer<pb::SearchMatrixPairsResponse> {
        Err(lacking("SearchMatrixPairs"))
    }

    async fn search_matrix_offsets(
        &self,
        _: Request<pb::SearchMatrixPoints>,
    ) -> Answer<pb::SearchMatrixOffsetsResponse> {
        Err(lacking("SearchMatrixOffsets"))
    }
}
