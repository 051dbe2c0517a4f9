//! One run of a node's process: when it ends, every task that belongs to it is dropped where it stands.

use std::future::Future;

use tokio::sync::watch;

/// The process that tasks belong to. Clones see the same end.
#[derive(Clone, Debug)]
pub(crate) struct Life(watch::Receiver<bool>);

impl Life {
    /// A new run; sending `true`, or dropping the sender, ends it.
    pub(crate) fn begin() -> (watch::Sender<bool>, Self) {
        let (end, life) = watch::channel(false);
        (end, Self(life))
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) {
        drop(self.0.clone().wait_for(|over| *over).await);
    }

    /// Runs a task that dies with the process.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let life = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = life.over() => None,
                done = task => Some(done),
            }
        })
    }
}

/// Lets HTTP/2 run its streams as tasks of this process.
impl<F> hyper::rt::Executor<F> for Life
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.spawn(task));
    }
}
