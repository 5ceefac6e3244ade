//! The runtime of one client. Its tasks end with the connection.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use whatsapp_rust::TokioRuntime;
use whatsapp_rust::wacore::runtime::{AbortHandle, BoxFuture, Runtime};

/// Runs the tasks of a client until `ended` is cancelled. The client library starts tasks that sleep and that hold the
/// store, and does not end them with the client (whatsapp-rust 0.7.0).
pub(super) struct ClientRuntime {
    pub ended: CancellationToken,
}

impl ClientRuntime {
    fn until_ended(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let ended = self.ended.clone();
        Box::pin(async move {
            ended.run_until_cancelled(task).await;
        })
    }
}

impl Runtime for ClientRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> AbortHandle {
        TokioRuntime.spawn(self.until_ended(task))
    }

    fn spawn_detached(&self, task: BoxFuture<'static, ()>) {
        TokioRuntime.spawn_detached(self.until_ended(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        TokioRuntime.sleep(duration)
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        TokioRuntime.spawn_blocking(work)
    }

    fn yield_now(&self) -> Option<BoxFuture<'static, ()>> {
        TokioRuntime.yield_now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_with_the_connection() {
        let ended = CancellationToken::new();
        let runtime = ClientRuntime { ended: ended.clone() };
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        runtime.spawn_detached(Box::pin(std::future::pending()));
        let handle = runtime.spawn(Box::pin(std::future::pending()));
        assert_eq!(tasks(), 2);
        ended.cancel();
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
        handle.abort();
    }
}
