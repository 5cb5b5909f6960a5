//! Health checks: a probe that runs again and again while its container does.
//!
//! One task for each container that has a check and runs. A probe is an exec that no client knows of; what it says is
//! published in [`Details::health`](super::model::Details).

use std::{sync::Arc, time::Duration};

use berth_api::models::{ContainerConfig, Health, HealthStatus, HealthcheckResult};
use berth_runtime::supervisor::Request;
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{
    Containers,
    exec::{Exec, ExecStart},
    model::Container,
    payload::Payload,
    run::Run,
    signal,
    state::Phase,
};
use crate::engine::time;

/// Probes that are remembered.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
const OUTPUT_MAX: usize = 4096;
/// How long a probe may take to be started.
const START: Duration = Duration::from_secs(30);
/// How long a probe that was killed may take to be gone.
const FAREWELL: Duration = Duration::from_secs(10);
/// The shell of `CMD-SHELL` unless the container has another one.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A health check with everything filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: i64,
}

impl Check {
    /// The check of a container, if it has one that can be run.
    fn of(config: &ContainerConfig) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let (kind, words) = check.test.split_first()?;
        let args: Vec<String> = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let own = config.shell.as_deref().filter(|shell| !shell.is_empty());
                let shell = own.map_or_else(|| SHELL.map(str::to_owned).to_vec(), <[String]>::to_vec);
                shell.into_iter().chain(words.iter().cloned()).collect()
            }
            _ => return None,
        };
        let or = |nanoseconds: i64, default: u64| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => Duration::from_secs(default),
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        (!args.is_empty()).then(|| Self {
            args,
            interval: or(check.interval, 30),
            timeout: or(check.timeout, 30),
            start_period: or(check.start_period, 0),
            start_interval: or(check.start_interval, 5),
            retries: match check.retries {
                0 => 3,
                retries => retries,
            },
        })
    }

    /// How long to wait for the next probe.
    fn pause(&self, status: HealthStatus, since_start: Duration) -> Duration {
        match status {
            HealthStatus::Starting if since_start < self.start_period => self.start_interval,
            _ => self.interval,
        }
    }

    /// What is known after a probe that began `since_start` after the container.
    fn judge(&self, health: &Health, result: HealthcheckResult, since_start: Duration) -> Health {
        let mut health = health.clone();
        if result.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if health.status != HealthStatus::Starting || since_start >= self.start_period {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        health.log.push(result);
        let surplus = health.log.len().saturating_sub(KEPT);
        health.log.drain(..surplus);
        health
    }
}

impl Containers {
    /// Begins to probe a container that runs, if it has a health check. It ends with the run or a pause.
    pub(super) fn probe_health(&self, container: &Arc<Container>, run: &Arc<Run>) {
        let Some(check) = Check::of(container.config()) else {
            return;
        };
        let stop = run.begin_probing();
        let (this, container, run) = (self.clone(), Arc::clone(container), Arc::clone(run));
        self.tasks.spawn(async move {
            loop {
                let now = container.details();
                if now.state.phase != Phase::Running {
                    return;
                }
                let pause = check.pause(now.health.status, since(now.state.started_at, Timestamp::now()));
                if stop
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    return;
                }
                let result = this.probe(&container, &run, &check, &stop).await;
                if stop.is_cancelled() {
                    return;
                }
                this.record_probe(&container, &check, result).await;
            }
        });
    }

    /// Runs one probe.
    async fn probe(
        &self,
        container: &Arc<Container>,
        run: &Arc<Run>,
        check: &Check,
        stop: &CancellationToken,
    ) -> Probed {
        let start = Timestamp::now();
        let failed = |message: String| Probed {
            start,
            exit_code: -1,
            output: message,
        };
        let exec = self.exec_probe(container, check.args.clone());
        let launching = self.exec_start_probe(container, &exec);
        let stream = match tokio::time::timeout(START, launching).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(message)) => return failed(message),
            Err(_) => {
                let id = container.id();
                return failed(format!("timed out starting health check for container {id}"));
            }
        };
        let mut output = Output::default();
        let ending = async {
            output.read(stream).await;
            exec.ended().await
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(check.timeout, ending) => ended.ok(),
            () = stop.cancelled() => None,
        };
        let probed = match ended {
            Some(exit_code) => Probed {
                start,
                exit_code,
                output: output.text(),
            },
            None => {
                kill(run, &exec).await;
                let limit = time::go_duration(check.timeout);
                failed(match output.text() {
                    text if text.is_empty() => format!("Health check exceeded timeout ({limit})"),
                    text => format!("Health check exceeded timeout ({limit}): {text}"),
                })
            }
        };
        self.forget_probe(&run.bundle, &exec).await;
        probed
    }

    async fn exec_start_probe(
        &self,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
    ) -> Result<UnixStream, String> {
        exec.begin();
        match self.exec_launch(container, exec, ExecStart::default()).await {
            Ok(launched) => Ok(launched.stream),
            Err(failure) => Err(failure.message),
        }
    }

    /// Publishes what a probe has found.
    async fn record_probe(&self, container: &Arc<Container>, check: &Check, probed: Probed) {
        let changed = container.change(|details| {
            // The run may have ended meanwhile, and then said so itself.
            if details.state.phase != Phase::Running {
                return None;
            }
            let since_start = since(details.state.started_at, probed.start);
            let before = details.health.status;
            details.health = Arc::new(check.judge(&details.health, probed.into(), since_start));
            let after = details.health.status;
            (after != before).then_some(after)
        });
        if let Some(status) = changed {
            self.save_or_warn(container).await;
            self.publish(container, &format!("health_status: {status}"), &[]);
        }
    }
}

/// What came of one probe.
#[derive(Debug)]
struct Probed {
    start: Timestamp,
    exit_code: i64,
    output: String,
}

impl From<Probed> for HealthcheckResult {
    fn from(probed: Probed) -> Self {
        Self {
            start: time::rfc3339(probed.start),
            end: time::rfc3339(Timestamp::now()),
            exit_code: probed.exit_code,
            output: probed.output,
        }
    }
}

/// Ends a probe that takes too long, and waits for its end, so that they don't pile up.
async fn kill(run: &Run, exec: &Exec) {
    let request = Request::Signal {
        number: signal::KILL,
        exec: Some(exec.id.to_string()),
    };
    if let Err(failure) = run.link().call(request).await {
        tracing::debug!(
            exec = &*exec.id,
            failure.message,
            "a probe could not be killed; it may have ended"
        );
    }
    if tokio::time::timeout(FAREWELL, exec.ended()).await.is_err() {
        tracing::warn!(exec = &*exec.id, "a probe was killed and does not go");
    }
}

/// The first bytes of what a probe writes to both outputs.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    truncated: bool,
}

impl Output {
    /// Reads up to the end.
    async fn read(&mut self, stream: UnixStream) {
        let mut payload = Payload::new(stream, true);
        let mut buffer = [0u8; OUTPUT_MAX];
        while let Ok(length) = payload.read(&mut buffer).await
            && length > 0
        {
            self.keep(buffer.get(..length).unwrap_or_default());
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.kept.len();
        self.truncated |= bytes.len() > room;
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        match self.truncated {
            true => format!("{text}..."),
            false => text.into_owned(),
        }
    }
}

/// How long after the start of a run something happened.
fn since(started_at: Option<Timestamp>, at: Timestamp) -> Duration {
    let passed = started_at.map(|start| at.duration_since(start));
    passed
        .and_then(|passed| Duration::try_from(passed).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use berth_api::models::HealthConfig;

    use super::*;

    fn check(test: &[&str], change: impl FnOnce(&mut HealthConfig)) -> Option<Check> {
        let mut healthcheck = HealthConfig {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            ..HealthConfig::default()
        };
        change(&mut healthcheck);
        Check::of(&ContainerConfig {
            healthcheck: Some(healthcheck),
            ..ContainerConfig::default()
        })
    }

    fn result(exit_code: i64) -> HealthcheckResult {
        HealthcheckResult {
            exit_code,
            ..HealthcheckResult::default()
        }
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(check(&["CMD", "a", "b"], |_| ()).unwrap().args, ["a", "b"]);
        let shell = check(&["CMD-SHELL", "a b"], |_| ()).unwrap();
        assert_eq!(shell.args, ["/bin/sh", "-c", "a b"]);
        assert_eq!((shell.interval, shell.retries), (Duration::from_secs(30), 3));
        for none in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(check(none, |_| ()), None, "{none:?}");
        }
    }

    #[test]
    fn verdicts() {
        let check = check(&["CMD", "x"], |check| {
            check.retries = 2;
            check.start_period = 10_000_000_000;
        })
        .unwrap();
        let (early, late) = (Duration::from_secs(9), Duration::from_secs(10));
        let fresh = Health {
            status: HealthStatus::Starting,
            ..Health::default()
        };
        assert_eq!(check.pause(fresh.status, early), Duration::from_secs(5));
        assert_eq!(check.pause(fresh.status, late), Duration::from_secs(30));
        assert_eq!(check.pause(HealthStatus::Healthy, early), Duration::from_secs(30));

        let ignored = check.judge(&fresh, result(1), early);
        assert_eq!(
            (ignored.status, ignored.failing_streak),
            (HealthStatus::Starting, 0)
        );
        let counted = check.judge(&ignored, result(1), late);
        assert_eq!(
            (counted.status, counted.failing_streak),
            (HealthStatus::Starting, 1)
        );
        let ill = check.judge(&counted, result(-1), late);
        assert_eq!((ill.status, ill.failing_streak), (HealthStatus::Unhealthy, 2));
        let well = check.judge(&ill, result(0), late);
        assert_eq!((well.status, well.failing_streak), (HealthStatus::Healthy, 0));
        // Once it was healthy the start period is over.
        let again = check.judge(&well, result(1), early);
        assert_eq!((again.status, again.failing_streak), (HealthStatus::Healthy, 1));
        let many = (0..9).fold(fresh, |health, code| check.judge(&health, result(code), late));
        let codes: Vec<_> = many.log.iter().map(|result| result.exit_code).collect();
        assert_eq!(codes, [4, 5, 6, 7, 8]);
    }

    #[test]
    fn output_is_cut() {
        let mut output = Output::default();
        output.keep(&[b'a'; OUTPUT_MAX]);
        assert_eq!(output.text().len(), OUTPUT_MAX);
        output.keep(b"b");
        assert!(output.text().ends_with("aa..."));
    }
}
