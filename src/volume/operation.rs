//! Work that outlives its call: one operation a volume at a time, beside those that only need
//! it to stay as it is.
//!
//! Each state-changing RPC runs as an operation in a task of its own, under the
//! key of what it changes; the RPC only waits for it. So neither a client that
//! goes away nor a deadline leaves a half-done step behind. The same request
//! again joins the operation that runs; another one for the same key waits a
//! moment and is then told what runs, since when, and in which step.
//!
//! Not here: locks against other processes. Those are the journal's
//! compare-and-set operations; this registry only saves work and gives answers.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::metrics;
use crate::volume::error::{Error, Kind, Result};

/// How long a different request for a busy key waits before it is told so.
const PATIENCE: Duration = Duration::from_secs(2);

/// When the caller must have its answer.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline so far from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The time left, zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The time left, but no more than `most`.
    pub fn left_at_most(self, most: Duration) -> Duration {
        self.left().min(most)
    }
}

/// What an operation is, to join it and to tell about it.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is changed: a volume id, or a cluster's pool and volume name. One
    /// operation a key runs at a time.
    pub key: String,
    /// The RPC, such as `NodeStageVolume`.
    pub rpc: &'static str,
    /// All that the outcome depends on, without secrets; equal means the same request.
    pub fingerprint: String,
    /// When the caller must have its answer.
    pub deadline: Deadline,
}

/// What an operation is at.
#[derive(Debug, Clone, Default)]
struct Step {
    text: String,
    /// It says how far it has come: it may well take longer than one call lasts.
    counted: bool,
}

/// The handle by which an operation tells in which step it is.
#[derive(Debug, Clone)]
pub struct Progress {
    step: Arc<Mutex<Step>>,
    /// The deadline of the caller that started the operation.
    pub deadline: Deadline,
}

impl Progress {
    /// Names the step that begins now, such as `mapping rbd/csi-vol-…`.
    pub fn step(&self, step: impl Into<String>) {
        self.set(Step { text: step.into(), counted: false });
    }

    /// Says how far a step has come that is expected to outlast calls. A caller whose time
    /// ends meanwhile is told [`Kind::Busy`]: nothing hangs, and a repeat joins the work.
    pub fn counted(&self, step: impl Into<String>) {
        self.set(Step { text: step.into(), counted: true });
    }

    fn set(&self, step: Step) {
        tracing::debug!(step = step.text);
        *lock(&self.step) = step;
    }

    fn current(&self) -> Step {
        lock(&self.step).clone()
    }
}

type Outcome = Option<Result<Arc<dyn Any + Send + Sync>>>;

struct Running {
    needs: Vec<String>,
    rpc: &'static str,
    fingerprint: String,
    since: Instant,
    progress: Progress,
    outcome: watch::Receiver<Outcome>,
}

/// The operations that run now.
#[derive(Clone, Default)]
pub struct Operations {
    running: Arc<Mutex<HashMap<String, Running>>>,
}

impl Operations {
    /// Runs `work` under the request's key, or joins the same request that runs
    /// already, and waits for the outcome until the deadline.
    ///
    /// # Errors
    /// The work's own; [`Kind::Busy`] when something else runs under the key; at the
    /// deadline [`Kind::Timeout`] with the step that has not ended, or [`Kind::Busy`]
    /// with how far it is if it is a counted one. The work goes on then.
    pub async fn run<T, F, Work>(&self, request: Request, work: Work) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        Work: FnOnce(Progress) -> F,
    {
        let busy_until = Instant::now() + request.deadline.left_at_most(PATIENCE);
        self.run_beside(request, Vec::new(), busy_until, work).await
    }

    /// As [`Operations::run`], for work that needs other volumes and snapshots to stay as they
    /// are, such as the source of a snapshot: `needs` are their keys. Operations that change
    /// one of them wait for this one and it for them, up to the deadline; others that only
    /// need them run side by side.
    ///
    /// # Errors
    /// As [`Operations::run`].
    pub async fn run_with<T, F, Work>(&self, request: Request, needs: Vec<String>, work: Work) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        Work: FnOnce(Progress) -> F,
    {
        let busy_until = Instant::now() + request.deadline.left();
        self.run_beside(request, needs, busy_until, work).await
    }

    async fn run_beside<T, F, Work>(
        &self,
        request: Request,
        needs: Vec<String>,
        busy_until: Instant,
        work: Work,
    ) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        Work: FnOnce(Progress) -> F,
    {
        let outcome = loop {
            match self.admit(&request, &needs, busy_until)? {
                Admission::Start(progress, sender) => {
                    let receiver = sender.subscribe();
                    self.start(request.key.clone(), sender, work(progress));
                    break receiver;
                }
                Admission::Join(receiver) => break receiver,
                Admission::Wait(mut other) => {
                    let ended = other.wait_for(Option::is_some);
                    let _ = tokio::time::timeout_at(busy_until.into(), ended).await;
                }
            }
        };
        self.wait(&request, outcome).await
    }

    /// The age of the oldest operation, for the metrics.
    pub fn oldest(&self) -> Option<Duration> {
        lock(&self.running).values().map(|running| running.since.elapsed()).max()
    }

    fn admit(&self, request: &Request, needs: &[String], busy_until: Instant) -> Result<Admission> {
        let mut running = lock(&self.running);
        if let Some(same) = running.get(&request.key).filter(|same| same.is(request)) {
            return Ok(Admission::Join(same.outcome.clone()));
        }
        let Some(other) = in_the_way(&running, request, needs) else {
            let (sender, outcome) = watch::channel(None);
            let progress = Progress { step: Arc::default(), deadline: request.deadline };
            running.insert(
                request.key.clone(),
                Running {
                    needs: needs.to_vec(),
                    rpc: request.rpc,
                    fingerprint: request.fingerprint.clone(),
                    since: Instant::now(),
                    progress: progress.clone(),
                    outcome,
                },
            );
            return Ok(Admission::Start(progress, sender));
        };
        if Instant::now() < busy_until {
            return Ok(Admission::Wait(other.outcome.clone()));
        }
        Err(Error::new(
            Kind::Busy,
            format!(
                "{} waits: {} on the same volume has run for {:.1} s and is {}",
                request.rpc,
                other.rpc,
                other.since.elapsed().as_secs_f64(),
                describe_step(&other.progress)
            ),
        ))
    }

    fn start<T, F>(&self, key: String, sender: watch::Sender<Outcome>, work: F)
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        // The guard frees the key even when the work panics.
        let guard = Release { operations: self.clone(), key };
        metrics::operation_started();
        let span = tracing::Span::current();
        tokio::spawn(tracing::Instrument::instrument(
            async move {
                let outcome = work.await;
                drop(guard);
                let shared = outcome.map(|value| Arc::new(value) as Arc<dyn Any + Send + Sync>);
                sender.send_replace(Some(shared));
            },
            span,
        ));
    }

    async fn wait<T>(&self, request: &Request, mut outcome: watch::Receiver<Outcome>) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
    {
        let ended = tokio::time::timeout(request.deadline.left(), outcome.wait_for(Option::is_some)).await;
        let outcome = match ended {
            Err(_) => return Err(self.late(request)),
            Ok(Err(_)) => {
                return Err(Error::new(Kind::Internal, format!("{} ended without an outcome", request.rpc))
                    .unsettled());
            }
            Ok(Ok(outcome)) => outcome.clone(),
        };
        let value = outcome.ok_or_else(|| self.late(request))??;
        value.downcast_ref::<T>().cloned().ok_or_else(|| {
            Error::new(Kind::Internal, format!("{} joined an operation of another type", request.rpc))
                .unsettled()
        })
    }

    fn late(&self, request: &Request) -> Error {
        let (kind, step) = match lock(&self.running).get(&request.key) {
            Some(running) if running.progress.current().counted => {
                (Kind::Busy, describe_step(&running.progress))
            }
            Some(running) => (Kind::Timeout, describe_step(&running.progress)),
            None => (Kind::Timeout, "just ended".to_owned()),
        };
        Error::new(
            kind,
            format!(
                "{} is not done in the time given, it is {step}; it goes on, and calling again joins it",
                request.rpc
            ),
        )
    }
}

impl Running {
    fn is(&self, request: &Request) -> bool {
        self.rpc == request.rpc && self.fingerprint == request.fingerprint
    }
}

/// An operation that has to end before the request's may begin.
fn in_the_way<'a>(
    running: &'a HashMap<String, Running>,
    request: &Request,
    needs: &[String],
) -> Option<&'a Running> {
    let needed = || needs.iter().find_map(|key| running.get(key));
    let needing = || running.values().find(|other| other.needs.contains(&request.key));
    running.get(&request.key).or_else(needed).or_else(needing)
}

enum Admission {
    Start(Progress, watch::Sender<Outcome>),
    Join(watch::Receiver<Outcome>),
    Wait(watch::Receiver<Outcome>),
}

struct Release {
    operations: Operations,
    key: String,
}

impl Drop for Release {
    fn drop(&mut self) {
        lock(&self.operations.running).remove(&self.key);
        metrics::operation_ended();
    }
}

fn describe_step(progress: &Progress) -> String {
    match progress.current().text {
        step if step.is_empty() => "starting".to_owned(),
        step => step,
    }
}

/// A poisoned lock only says that a thread panicked; the maps stay consistent,
/// since nothing in here can panic between two changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rpc: &'static str, fingerprint: &str, time: u64) -> Request {
        Request {
            key: "volume".into(),
            rpc,
            fingerprint: fingerprint.into(),
            deadline: Deadline::after(Duration::from_millis(time)),
        }
    }

    #[tokio::test]
    async fn the_same_request_joins_and_another_is_told_what_runs() {
        let operations = Operations::default();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let operations = operations.clone();
            async move {
                operations
                    .run(request("Stage", "a", 9000), |progress| async move {
                        progress.step("mapping rbd/x");
                        gate.await.unwrap();
                        Ok(7)
                    })
                    .await
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let joined = tokio::spawn({
            let operations = operations.clone();
            async move { operations.run(request("Stage", "a", 9000), |_| async { Ok(8) }).await }
        });
        let other = operations.run(request("Unstage", "a", 50), |_| async { Ok(9) }).await.unwrap_err();
        assert_eq!(other.kind, Kind::Busy);
        assert!(
            other.to_string().contains("Stage on the same volume")
                && other.to_string().contains("mapping rbd/x")
        );
        open.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 7);
        assert_eq!(joined.await.unwrap().unwrap(), 7);
        assert_eq!(operations.run(request("Unstage", "a", 500), |_| async { Ok(9) }).await.unwrap(), 9);
    }

    #[tokio::test]
    async fn work_goes_on_after_the_deadline_and_a_repeat_joins_it() {
        let operations = Operations::default();
        let work = |progress: Progress| async move {
            progress.step("waiting");
            tokio::time::sleep(Duration::from_millis(150)).await;
            Ok(1)
        };
        let late = operations.run(request("Stage", "a", 20), work).await.unwrap_err();
        assert_eq!(late.kind, Kind::Timeout);
        assert!(late.to_string().contains("waiting"));
        let never = |_| async { Err(Error::new(Kind::Internal, "not joined")) };
        assert_eq!(operations.run::<i32, _, _>(request("Stage", "a", 2000), never).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_counted_step_is_pending_and_the_next_one_is_late_again() {
        let operations = Operations::default();
        let (on, next) = tokio::sync::oneshot::channel::<()>();
        let work = |progress: Progress| async move {
            progress.counted("512 of 16384 objects looked at");
            next.await.unwrap();
            progress.step("mkfs");
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(1)
        };
        let pending = operations.run(request("Stage", "a", 20), work).await.unwrap_err();
        assert_eq!(pending.kind, Kind::Busy);
        assert!(pending.to_string().contains("512 of 16384"), "{pending}");
        on.send(()).unwrap();
        let never = |_| async { Err(Error::new(Kind::Internal, "not joined")) };
        let late = operations.run::<i32, _, _>(request("Stage", "a", 60), never).await.unwrap_err();
        assert_eq!(late.kind, Kind::Timeout, "{late}");
        assert_eq!(operations.run::<i32, _, _>(request("Stage", "a", 2000), never).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_source_is_shared_by_those_who_need_it_and_not_changed_meanwhile() {
        let operations = Operations::default();
        let of = |key: &str, time| Request { key: key.into(), ..request("CreateSnapshot", key, time) };
        let needs = || vec!["volume".to_owned()];
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let operations = operations.clone();
            let request = of("one", 9000);
            async move {
                operations
                    .run_with(request, vec!["volume".into()], |_| async move { Ok(gate.await.is_ok()) })
                    .await
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(operations.run_with(of("two", 500), needs(), |_| async { Ok(2) }).await.unwrap(), 2);
        let delete = request("DeleteVolume", "", 50);
        assert_eq!(operations.run(delete, |_| async { Ok(3) }).await.unwrap_err().kind, Kind::Busy);
        open.send(()).unwrap();
        assert!(first.await.unwrap().unwrap());
        let delete = request("DeleteVolume", "", 500);
        assert_eq!(operations.run(delete, |_| async { Ok(3) }).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_panic_frees_the_key() {
        let operations = Operations::default();
        let work = |_| async { if true { panic!("boom") } else { Ok(1) } };
        let error = operations.run(request("Stage", "a", 500), work).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(operations.run(request("Stage", "a", 500), |_| async { Ok(2) }).await.unwrap(), 2);
    }
}
