//! Bodies of answers, read no further than they may be long: whoever answers decides what it sends, and not how much is kept.

use reqwest::Response;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It broke off, or took too long.
    #[error(transparent)]
    Lost(#[from] reqwest::Error),
    /// It is too long.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
}

/// A body of at most this many bytes.
pub(crate) async fn read(mut answer: Response, most: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if body.len() + part.len() > most {
            return Err(Unread::TooLong(most));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
