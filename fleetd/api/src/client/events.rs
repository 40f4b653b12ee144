//! Server-sent events: the stream of a watch.

use super::ClientError;
use super::stream::Lines;
use crate::v2::WatchEvent;

/// A stream of events. Dropping it closes the connection, which tells the server to stop.
#[derive(Debug)]
pub struct EventStream {
    lines: Lines,
    block: Block,
}

/// One event as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub event: WatchEvent,
    /// Ends what was told of one revision; sent back as `since`, it is where the next stream goes on.
    pub id: Option<String>,
}

/// The lines of an event that has not come to its end.
#[derive(Debug, Default)]
struct Block {
    event: String,
    data: String,
    id: Option<String>,
}

impl EventStream {
    pub(super) fn new(lines: Lines) -> EventStream {
        EventStream { lines, block: Block::default() }
    }

    /// The next event, or none at the end; one that was cut off by the end is none. Cancel-safe.
    ///
    /// # Errors
    /// A connection that broke or is silent for longer than heartbeats allow, and an event whose data are not its type's.
    pub async fn next(&mut self) -> Result<Option<Received>, ClientError> {
        while let Some(line) = self.lines.next().await? {
            let line = String::from_utf8_lossy(&line);
            let Some(block) = self.block.take_in(line.trim_end_matches(['\n', '\r'])) else { continue };
            let event = WatchEvent::parse(&block.event, &block.data);
            let event = event.map_err(|source| self.lines.undecodable(source))?;
            return Ok(Some(Received { event, id: block.id }));
        }
        Ok(None)
    }
}

impl Block {
    /// The whole event, if this line ends one.
    fn take_in(&mut self, line: &str) -> Option<Block> {
        if line.is_empty() {
            let block = std::mem::take(self);
            // As browsers read it: without data it is no event.
            return (!block.data.is_empty()).then_some(block);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment, or a field of no use here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line_and_comments_are_none() {
        let mut block = Block::default();
        let text = ": here\n\nevent: synced\nid: 7\ndata: {\"revision\":\ndata:7}\nretry: 3\n\n";
        let events: Vec<Block> = text.split('\n').filter_map(|line| block.take_in(line)).collect();
        assert_eq!(events.len(), 1);
        let Block { event, data, id } = &events[0];
        assert_eq!(
            (event.as_str(), data.as_str(), id.as_deref()),
            ("synced", "{\"revision\":\n7}", Some("7"))
        );
    }
}
