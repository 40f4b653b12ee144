//! Page tokens: which part of a collection the next request of a client asks for.
//!
//! URL-safe base64 with padding of four bytes, limit and page, each 16 bits little-endian, as fleet 1.0 made them.
//! Unlike there the arithmetic does not wrap.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

/// One page of a collection; pages count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    limit: u16,
    page: u16,
}

/// Why a token is no token of this server; the messages are those of fleet 1.0, all answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageTokenError {
    #[error("too many values for page token")]
    Repeated,
    #[error("illegal base64 data at input byte {at}")]
    NotBase64 { at: usize },
    #[error("EOF")]
    Empty,
    #[error("unexpected EOF")]
    TooShort,
    #[error("token limit must be {limit}")]
    OtherLimit { limit: u16 },
    #[error("token page must be greater than zero")]
    PageZero,
}

impl PageToken {
    /// The first page. `limit` is the server's page size; zero is refused where the configuration is read, and would
    /// mean pages of one here.
    #[must_use]
    pub fn first(limit: u16) -> PageToken {
        PageToken { limit: limit.max(1), page: 1 }
    }

    /// The page that the values of the query parameter `nextPageToken` ask for; none asks for the first.
    ///
    /// # Errors
    /// More than one value, and anything that this server, with this page size, would not have handed out.
    pub fn of_query<S: AsRef<str>>(values: &[S], limit: u16) -> Result<PageToken, PageTokenError> {
        match values {
            [] => Ok(PageToken::first(limit)),
            [value] => PageToken::parse(value.as_ref(), limit),
            _ => Err(PageTokenError::Repeated),
        }
    }

    /// # Errors
    /// Anything that this server, with this page size, would not have handed out. Extra bytes are ignored.
    pub fn parse(text: &str, limit: u16) -> Result<PageToken, PageTokenError> {
        let bytes = URL_SAFE.decode(text).map_err(|error| PageTokenError::NotBase64 {
            at: match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                _ => text.len() / 4 * 4,
            },
        })?;
        let (read_limit, page) = match bytes.as_slice() {
            [] => return Err(PageTokenError::Empty),
            [a, b, c, d, ..] => (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])),
            _ => return Err(PageTokenError::TooShort),
        };
        if read_limit != limit {
            return Err(PageTokenError::OtherLimit { limit });
        }
        if page == 0 {
            return Err(PageTokenError::PageZero);
        }
        Ok(PageToken { limit, page })
    }

    /// Which of `len` items are on this page; empty past the end.
    #[must_use]
    pub fn range(self, len: usize) -> Range<usize> {
        let limit = usize::from(self.limit);
        let start = (usize::from(self.page) - 1) * limit;
        start.min(len)..(start + limit).min(len)
    }

    /// The token after this page: there is one whenever the page is full, so that an exact multiple ends in an empty
    /// page. None after page 65535.
    #[must_use]
    pub fn next(self, len: usize) -> Option<PageToken> {
        let full = self.range(len).len() == usize::from(self.limit);
        full.then_some(())?;
        Some(PageToken { limit: self.limit, page: self.page.checked_add(1)? })
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([a, b], [c, d]) = (self.limit.to_le_bytes(), self.page.to_le_bytes());
        f.write_str(&URL_SAFE.encode([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_fleet_1() {
        let second = PageToken::first(100).next(250).unwrap();
        assert_eq!(second.to_string(), "ZAACAA==");
        assert_eq!(PageToken::of_query(&["ZAACAA=="], 100), Ok(second));
        assert_eq!((second.range(250), second.range(150), second.range(7)), (100..200, 100..150, 7..7));
    }

    #[test]
    fn an_exact_multiple_ends_in_an_empty_page() {
        let second = PageToken::first(100).next(200).unwrap();
        let third = second.next(200).unwrap();
        assert!(third.range(200).is_empty());
        assert_eq!(third.next(200), None);
    }

    #[test]
    fn pages_do_not_wrap() {
        let far = PageToken { limit: 100, page: 657 };
        assert_eq!(far.range(100_000), 65_600..65_700);
        assert_eq!(PageToken { limit: 1, page: u16::MAX }.next(usize::MAX), None);
    }

    #[test]
    fn foreign_tokens_get_the_messages_of_fleet_1() {
        let message = |values: &[&str]| PageToken::of_query(values, 100).unwrap_err().to_string();
        assert_eq!(message(&["a", "b"]), "too many values for page token");
        assert_eq!(message(&[""]), "EOF");
        assert_eq!(message(&["ZAA="]), "unexpected EOF");
        assert_eq!(message(&["ZA*CAA=="]), "illegal base64 data at input byte 2");
        assert_eq!(message(&["CgACAA=="]), "token limit must be 100");
        assert_eq!(message(&["ZAAAAA=="]), "token page must be greater than zero");
    }
}
