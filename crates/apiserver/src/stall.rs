//! A connection whose client may not stop half-way: one that takes nothing of what is written to it, or does not say which
//! request it wants, is cut off. A timer runs only while something is waited for, so an idle connection costs none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The bytes that an HTTP/2 client begins with.
const PREFACE_BYTES: usize = 24;

/// Reads and writes with those limits.
pub(crate) struct Stalling<S> {
    inner: S,
    stall_max: Duration,
    blocked: Option<Pin<Box<Sleep>>>,
    /// Until the client's preface has come: when it must have, and how many bytes are missing.
    preface: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Stalling<S> {
    /// Cuts off after `stall_max`; where a `preface_max` is given, the client's first bytes must come within it.
    pub(crate) fn new(inner: S, stall_max: Duration, preface_max: Option<Duration>) -> Self {
        let preface = preface_max.map(|max| (Box::pin(tokio::time::sleep(max)), PREFACE_BYTES));
        Self { inner, stall_max, blocked: None, preface }
    }

    /// What a write gives: progress ends the wait, a wait that lasts too long is an error.
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.blocked = None;
            return result;
        }
        let stall_max = self.stall_max;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        ready!(blocked.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        let Some((deadline, missing)) = &mut self.preface else { return result };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.preface = None;
        } else if result.is_pending() {
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client asks for nothing")));
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(context);
        self.written(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(context);
        self.written(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_is_slow_is_not() {
        let (server, mut client) = tokio::io::duplex(8);
        let mut server = Stalling::new(server, Duration::from_secs(60), None);
        let began = tokio::time::Instant::now();
        let slow = async {
            let mut two = [0; 2];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut two).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[7; 24]), slow);
        written.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(400));
        let cut = server.write_all(&[7; 24]).await.unwrap_err();
        assert_eq!((cut.kind(), began.elapsed()), (io::ErrorKind::TimedOut, Duration::from_secs(460)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_for_nothing_is_cut_off() {
        let (server, mut client) = tokio::io::duplex(64);
        let limit = Some(Duration::from_secs(30));
        let mut server = Stalling::new(server, Duration::from_secs(60), limit);
        client.write_all(b"PRI * HTTP").await.unwrap();
        let mut bytes = [0; 24];
        assert_eq!(server.read(&mut bytes).await.unwrap(), 10);
        assert_eq!(server.read(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (server, mut client) = tokio::io::duplex(64);
        let mut server = Stalling::new(server, Duration::from_secs(60), limit);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert_eq!(server.read(&mut bytes).await.unwrap(), 24);
        let idle = tokio::time::timeout(Duration::from_secs(3600), server.read(&mut bytes)).await;
        assert!(idle.is_err(), "an idle connection stays");
    }
}
