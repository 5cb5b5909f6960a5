//! What a container has only while it runs, or waits to: its supervisor, its clients, its policy.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use berth_api::models::{RestartPolicy, RestartPolicyName};
use berth_runtime::supervisor::Streams;
use oci_spec::runtime::Process;
use tokio::{net::UnixStream, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::link::Link;

/// First wait before a restart by policy.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest wait before a restart by policy.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of this length makes the next wait a first one.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// One run of a container: from the creation of its sandbox until the traces of its end are put away.
#[derive(Debug)]
pub struct Run {
    /// Its directory in the exec root.
    pub bundle: PathBuf,
    /// The supervisor's socket, for clients to be attached.
    pub socket: PathBuf,
    link: Mutex<Arc<Link>>,
    /// Held from the sending of a signal until it has been told, and while a pause or its end is told, so that the end of
    /// the run is told after them.
    pub signalling: tokio::sync::Mutex<()>,
    ended: AtomicBool,
    /// The process of its specification, once an exec has needed it.
    pub process: OnceLock<Arc<Process>>,
    /// Ends the probing of its health that is under way.
    probing: Mutex<CancellationToken>,
    /// Cancelled when the end has been recorded and the bundle is gone.
    pub over: CancellationToken,
}

impl Run {
    /// A run in `bundle` whose supervisor is reached by `link`.
    pub fn new(bundle: &Path, socket: PathBuf, link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            bundle: bundle.to_owned(),
            socket,
            link: Mutex::new(link),
            signalling: tokio::sync::Mutex::default(),
            ended: AtomicBool::new(false),
            process: OnceLock::new(),
            probing: Mutex::default(),
            over: CancellationToken::new(),
        })
    }

    /// The engine's own connection to the supervisor.
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another connection in the place of one that was cut.
    pub fn relink(&self, link: Arc<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// Marks the end of its process; what remains is to put it away.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end_probing();
    }

    /// What tells that the probing of its health is to end, which begins now.
    pub fn begin_probing(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let mut probing = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *probing, token.clone()).cancel();
        if self.has_ended() {
            token.cancel();
        }
        token
    }

    /// Its health is not probed any more.
    pub fn end_probing(&self) {
        self.probing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// A client that waits for the container to be started.
#[derive(Debug)]
pub struct Pending {
    /// What it wants to be attached to.
    pub streams: Streams,
    /// Where the connection to the supervisor is handed over.
    pub ready: oneshot::Sender<UnixStream>,
}

/// The present.
#[derive(Debug, Default)]
pub struct Current {
    /// The run there is.
    pub run: Option<Arc<Run>>,
    /// Clients that attached before there was one.
    pub pending: Vec<Pending>,
    /// Variables that the process of the next run gets and that are recorded nowhere else.
    pub secret_environment: Vec<String>,
    /// Restarts by the policy.
    pub policy: Policy,
    /// Whether the end under way is part of a restart by hand, and `AutoRemove` therefore does not apply.
    pub restarting_by_hand: bool,
}

/// The restart policy at work.
#[derive(Debug, Default)]
pub struct Policy {
    /// Whether the container is to stay down until the next start by hand.
    cancelled: bool,
    /// The latest wait.
    delay: Duration,
    /// Ends the wait under way.
    wait: CancellationToken,
}

impl Policy {
    /// A start by hand: everything begins anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// No restart until the next start by hand; a wait under way ends.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.wait.cancel();
    }

    /// How long to wait before the next start and what ends the wait; none if the container is to stay down.
    pub fn after_end(
        &mut self,
        policy: &RestartPolicy,
        restarts: i64,
        exit_code: i64,
        stopped_by_hand: bool,
        lasted: Duration,
    ) -> Option<(Duration, CancellationToken)> {
        let restart = !self.cancelled
            && match policy.name {
                RestartPolicyName::Always => true,
                RestartPolicyName::UnlessStopped => !stopped_by_hand,
                RestartPolicyName::OnFailure => {
                    let most = policy.maximum_retry_count;
                    exit_code != 0 && (most == 0 || restarts < most)
                }
                RestartPolicyName::No | RestartPolicyName::Empty => false,
            };
        if !restart {
            return None;
        }
        self.delay = match self.delay {
            _ if lasted >= GOOD_RUN => FIRST_DELAY,
            Duration::ZERO => FIRST_DELAY,
            delay => (delay * 2).min(LONGEST_DELAY),
        };
        self.wait = CancellationToken::new();
        Some((self.delay, self.wait.clone()))
    }
}

/// Whether a policy restarts at all.
pub fn restarts(policy: &RestartPolicy) -> bool {
    !matches!(policy.name, RestartPolicyName::No | RestartPolicyName::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: RestartPolicyName, most: i64) -> RestartPolicy {
        RestartPolicy {
            name,
            maximum_retry_count: most,
        }
    }

    fn delay(
        state: &mut Policy,
        policy: &RestartPolicy,
        restarts: i64,
        code: i64,
        by_hand: bool,
    ) -> Option<u128> {
        let wait = state.after_end(policy, restarts, code, by_hand, Duration::from_secs(1))?;
        Some(wait.0.as_millis())
    }

    #[test]
    fn waits_double_up_to_a_minute_and_start_anew_after_a_good_run() {
        let always = policy(RestartPolicyName::Always, 0);
        let mut state = Policy::default();
        let waits: Vec<_> = (0..12)
            .filter_map(|n| delay(&mut state, &always, n, 0, false))
            .collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        let good = state.after_end(&always, 12, 0, false, Duration::from_secs(10));
        assert_eq!(good.map(|(delay, _)| delay), Some(FIRST_DELAY));
    }

    #[test]
    fn each_policy_has_its_own_mind() {
        let mut state = Policy::default();
        for (name, code, by_hand, restarted) in [
            (RestartPolicyName::No, 1, false, false),
            (RestartPolicyName::Empty, 1, false, false),
            (RestartPolicyName::Always, 0, true, true),
            (RestartPolicyName::UnlessStopped, 0, false, true),
            (RestartPolicyName::UnlessStopped, 1, true, false),
            (RestartPolicyName::OnFailure, 0, false, false),
            (RestartPolicyName::OnFailure, 1, false, true),
        ] {
            let wait = delay(&mut state, &policy(name, 0), 0, code, by_hand);
            assert_eq!(wait.is_some(), restarted, "{name} {code} {by_hand}");
        }
        let limited = policy(RestartPolicyName::OnFailure, 2);
        assert!(delay(&mut state, &limited, 1, 1, false).is_some());
        assert!(delay(&mut state, &limited, 2, 1, false).is_none());
    }

    #[test]
    fn cancelling_ends_the_wait_and_lasts_until_the_reset() {
        let always = policy(RestartPolicyName::Always, 0);
        let mut state = Policy::default();
        let (_, wait) = state.after_end(&always, 0, 0, false, Duration::ZERO).unwrap();
        state.cancel();
        assert!(wait.is_cancelled());
        assert!(delay(&mut state, &always, 0, 0, false).is_none());
        state.reset();
        assert_eq!(delay(&mut state, &always, 0, 0, false), Some(100));
    }
}
