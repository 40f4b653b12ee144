//! The API against a store in memory, over real sockets.
