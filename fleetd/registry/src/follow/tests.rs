//! The follower under loss, compaction and repair, over the in-memory store and a paused clock.
