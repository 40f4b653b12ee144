//! The stream of `SystemdEvent`s that a caller reads. A reader that falls behind loses events, never memory:
//! it gets one `Resync` in their place. Senders live in this crate; no channel crosses its border.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast;

use crate::types::SystemdEvent;

/// Events kept for a slow reader: about 600 starts at 13 events each.
const CAPACITY: usize = 8192;

/// One reader's view of what happens. Cheap to make; drop it when not read.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<SystemdEvent>,
}

impl Events {
    /// The next event; `None` when the `Systemd` behind it is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<SystemdEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                // What is still queued is older than the relist that `Resync` asks for.
                self.receiver = self.receiver.resubscribe();
                Some(SystemdEvent::Resync)
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// What has already arrived, without waiting.
    pub fn try_recv(&mut self) -> Option<SystemdEvent> {
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(_)) => {
                self.receiver = self.receiver.resubscribe();
                Some(SystemdEvent::Resync)
            }
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}

/// The sending side.
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    sender: broadcast::Sender<SystemdEvent>,
    resyncs: Arc<AtomicU64>,
}

impl EventSender {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(CAPACITY), resyncs: Arc::default() }
    }

    /// Number of `Resync`s so far: what was read from systemd before the last one may be out of date.
    pub(crate) fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Acquire)
    }

    pub(crate) fn send(&self, event: SystemdEvent) {
        if event == SystemdEvent::Resync {
            self.resyncs.fetch_add(1, Ordering::Release);
        }
        // An error means that nobody listens, which is fine.
        drop(self.sender.send(event));
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events { receiver: self.sender.subscribe() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reader_that_falls_behind_is_told_to_resync_and_goes_on() {
        let sender = EventSender::new();
        let mut events = sender.subscribe();
        for _ in 0..=CAPACITY {
            sender.send(SystemdEvent::UnitChanged { unit: "a.service".to_owned(), state: None });
        }
        assert_eq!(events.recv().await, Some(SystemdEvent::Resync));
        sender.send(SystemdEvent::Disconnected);
        assert_eq!(events.recv().await, Some(SystemdEvent::Disconnected));
        drop(sender);
        assert_eq!(events.recv().await, None);
    }
}
