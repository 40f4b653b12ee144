//! The store contract over the embedded store on the real clock and a real file; what a crash, a
//! damaged file and a full disk leave, over a disk in memory.

use tempfile::TempDir;

use super::EmbeddedStore;

mod crashes;
mod damage;
mod disk;
mod hands;
mod restart;
mod run;
mod trouble;
mod writes;

async fn empty() -> (EmbeddedStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (EmbeddedStore::open(&directory.path().join("registry")).unwrap(), directory)
}

mod contract {
    crate::store_contract!([], super::empty());
}
