//! The whole chain of an error on one line, for the one place where it is handled.

use std::error::Error;
use std::fmt::Write;

/// `outer: cause: root`, each message once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        // Some libraries repeat their source in their own message: saying it twice helps nobody.
        if !text.ends_with(&message) {
            let _ = write!(text, ": {message}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn joins_the_causes() {
        assert_eq!(chain(&Outer(std::io::Error::other("disk on fire"))), "cannot open the store: disk on fire");
    }
}
