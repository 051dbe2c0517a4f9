"""A day's work with the official client: create, upsert, query, scroll, delete.

Usage: session.py HOST:REST_PORT GRPC_PORT rest|grpc
"""

import sys

from qdrant_client import QdrantClient, models

address, grpc_port, protocol = sys.argv[1:]
host, rest_port = address.rsplit(":", 1)
client = QdrantClient(
    host=host,
    port=int(rest_port),
    grpc_port=int(grpc_port),
    prefer_grpc=protocol == "grpc",
    https=False,
    check_compatibility=False,
)
name = f"python-{protocol}"

client.create_collection(
    name,
    vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT),
    shard_number=6,
    replication_factor=2,
)
assert client.collection_exists(name)

points = [
    models.PointStruct(id=i, vector=[float(i), 1.0, 0.0, 0.0], payload={"parity": i % 2})
    for i in range(60)
]
client.upsert(name, points, wait=True)
assert client.count(name, exact=True).count == 60

nearest = client.query_points(name, query=[1.0, 0.0, 0.0, 0.0], limit=3, with_payload=True).points
assert [point.id for point in nearest] == [59, 58, 57], nearest
assert nearest[0].payload == {"parity": 1}, nearest

odd = models.Filter(must=[models.FieldCondition(key="parity", match=models.MatchValue(value=1))])
page, offset = client.scroll(name, scroll_filter=odd, limit=10)
assert [point.id for point in page] == list(range(1, 20, 2)), page
assert offset == 21, offset

assert [point.id for point in client.retrieve(name, ids=[3, 999])] == [3]

client.delete(name, points_selector=models.FilterSelector(filter=odd), wait=True)
assert client.count(name, exact=True).count == 30

client.delete_collection(name)
assert not client.collection_exists(name)
