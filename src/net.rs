//! One stream type for TCP and Unix sockets, used by both sides of the proxy, and for TLS to the upstream.
//!
//! Reading and writing go through tokio's poll functions, which know after a short read or write that the
//! socket is drained and spare the system call that would only say "would block".

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
}

/// A TLS stream keeps records that its socket would not take, and sends them only when it is asked to: here whenever it is
/// read from or written to, so that whoever polls it after a wake-up need not know.
#[derive(Debug)]
pub struct Tls {
    stream: TlsStream<TcpStream>,
    has_unsent: bool,
}

impl Stream {
    /// Reads what is there, at most `buf.len()` bytes; 0 is the end of the stream.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        match self.poll_read_buf(cx, &mut read) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(read.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether a read may find something, as far as the last events tell. Asks nobody, and nobody is woken for it: whoever is
    /// told `false` relies on a read, or a [`Stream::poll_readable`], that was [`noted`] and since which none was ready.
    #[inline]
    pub fn may_be_readable(&self) -> bool {
        match self {
            Stream::Tcp(s) => s.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Stream::Unix(s) => s.try_io(Interest::READABLE, || Ok(())).is_ok(),
            // There may be records that were read and not looked at.
            Stream::Tls(_) => true,
        }
    }

    /// Ready once a read may find something. Less than a read that finds nothing, where that is to be expected.
    #[inline]
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx).map(drop),
            Stream::Unix(s) => s.poll_read_ready(cx).map(drop),
            Stream::Tls(_) => Poll::Ready(()),
        }
    }

    /// Appends what is there to `buf`, which the caller has given room; 0 is the end of the stream.
    pub fn poll_read_append(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => tokio_util::io::poll_read_buf(Pin::new(s), cx, buf),
            Stream::Unix(s) => tokio_util::io::poll_read_buf(Pin::new(s), cx, buf),
            Stream::Tls(s) => {
                let sent = s.send_unsent(cx);
                unless_pending(tokio_util::io::poll_read_buf(Pin::new(&mut s.stream), cx, buf), sent)
            }
        }
    }

    fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => {
                let sent = s.send_unsent(cx);
                unless_pending(Pin::new(&mut s.stream).poll_read(cx, buf), sent)
            }
        }
    }

    pub fn poll_write_some(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => match try_write(buf, |buf| s.try_write(buf)) {
                Some(written) => Poll::Ready(written),
                None => Pin::new(s).poll_write(cx, buf),
            },
            Stream::Unix(s) => match try_write(buf, |buf| s.try_write(buf)) {
                Some(written) => Poll::Ready(written),
                None => Pin::new(s).poll_write(cx, buf),
            },
            Stream::Tls(s) => {
                let written = Pin::new(&mut s.stream).poll_write(cx, buf);
                s.has_unsent = true;
                s.send_unsent(cx)?;
                written
            }
        }
    }

    pub fn poll_write_pieces(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Tls(s) => {
                let written = Pin::new(&mut s.stream).poll_write_vectored(cx, bufs);
                s.has_unsent = true;
                s.send_unsent(cx)?;
                written
            }
        }
    }

    pub async fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        match self {
            Stream::Tcp(s) => s.write_all(buf).await,
            Stream::Unix(s) => s.write_all(buf).await,
            Stream::Tls(s) => {
                s.stream.write_all(buf).await?;
                s.stream.flush().await
            }
        }
    }

    pub async fn read_append(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        buf.reserve(4096);
        std::future::poll_fn(|cx| self.poll_read_append(cx, buf)).await
    }

    /// Whether something that was written has not been given to the socket yet. It goes when the stream is polled.
    pub fn has_unsent(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.has_unsent)
    }

    /// The peer is told that nothing more will be sent, once it has taken what was.
    pub fn end_writing(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => socket2::SockRef::from(s).shutdown(std::net::Shutdown::Write),
            Stream::Unix(s) => socket2::SockRef::from(s).shutdown(std::net::Shutdown::Write),
            // Without a close_notify, which a server takes like the end that it is.
            Stream::Tls(s) => socket2::SockRef::from(s.stream.get_ref().0).shutdown(std::net::Shutdown::Write),
        }
    }

    /// Whether the peer has sent its last byte, unread ones aside.
    pub fn is_read_closed(&self, cx: &mut Context<'_>) -> bool {
        let ready = match self {
            Stream::Tcp(s) => std::pin::pin!(s.ready(Interest::READABLE)).poll(cx),
            Stream::Unix(s) => std::pin::pin!(s.ready(Interest::READABLE)).poll(cx),
            Stream::Tls(s) => std::pin::pin!(s.stream.get_ref().0.ready(Interest::READABLE)).poll(cx),
        };
        match ready {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Whether the peer has closed or sent something although nothing was asked: an idle connection that is no longer
    /// usable.
    pub fn is_disturbed(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let read = match self {
            Stream::Tcp(s) => s.try_read(&mut byte),
            Stream::Unix(s) => s.try_read(&mut byte),
            // There may be records that carry nothing (session tickets), so only the TLS layer can tell.
            Stream::Tls(s) => {
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(&mut s.stream)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_ready();
            }
        };
        !matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Tls {
    fn send_unsent(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.has_unsent
            && let Poll::Ready(sent) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            // What could not be sent stays unsent: the error comes again for whoever did not get to see it.
            self.has_unsent = sent.is_err();
            return sent;
        }
        Ok(())
    }
}

/// Whether a poll that was pending just now is noted with the socket, which will wake the task. If not, the runtime has only
/// wanted the task to give way to others, and will come back to it without looking at the socket.
#[inline]
pub fn noted() -> bool {
    tokio::task::coop::has_budget_remaining()
}

/// What a socket takes at once as a rule needs nobody who waits for it. `None`: it is to be polled.
#[inline]
fn try_write(buf: &[u8], write: impl FnOnce(&[u8]) -> io::Result<usize>) -> Option<io::Result<usize>> {
    // Of more it may take a part, and polled it knows then that it is full.
    if buf.len() > MOST_TRIED_BYTES {
        return None;
    }
    match write(buf) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        written => Some(written),
    }
}

const MOST_TRIED_BYTES: usize = 16 << 10;

/// What was read, or that sending failed if there is nothing to read: a server that hangs up may have said why before.
fn unless_pending<T>(read: Poll<io::Result<T>>, sent: io::Result<()>) -> Poll<io::Result<T>> {
    match (read, sent) {
        (Poll::Pending, Err(error)) => Poll::Ready(Err(error)),
        (read, _) => read,
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Stream::Tls(Box::new(Tls {
            stream,
            has_unsent: false,
        }))
    }
}
