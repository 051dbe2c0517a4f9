//! Sends every Qdrant request straight to the node that holds its data.
