//! One build: its stages, those that do not depend on each other at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use berth_runtime::{
    Error, Kind, Result,
    image::{Hold, Image, ImageStore, LayerFrom},
};
use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use tokio::sync::OnceCell;

use super::{
    cache,
    context::Context,
    dockerfile::{self, Dockerfile, Instruction, PROXIES, Plan, Stage, Step, Target},
    expand::{self, Variables},
    metadata,
    options::Options,
    progress::{Failed, Out, forward},
    state::State,
};
use crate::engine::Engine;

/// A build under way.
pub struct Job {
    pub(super) engine: Engine,
    pub(super) options: Options,
    pub(super) context: Context,
    pub(super) escape: char,
    plan: Plan,
    globals: Variables,
    warnings: Vec<String>,
    /// Arguments of the request that some `ARG` has declared.
    consumed: Mutex<BTreeSet<String>>,
    results: Vec<OnceCell<Arc<State>>>,
    /// Images that `cachefrom` names.
    sources: Vec<Arc<Hold>>,
    cancelled: AtomicBool,
}

/// What a step has changed.
pub(super) struct Changed {
    /// The upper directory of its overlayfs.
    pub upper: std::path::PathBuf,
    /// Whether it may be taken away.
    pub taken: bool,
}

/// Cancels what blocks when the build is dropped.
struct Cancel(Arc<Job>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Release);
    }
}

impl Job {
    /// Plans a build.
    ///
    /// # Errors
    /// Invalid for a target that is not there and a base that cannot be expanded.
    pub fn new(
        engine: Engine,
        options: Options,
        context: Context,
        dockerfile: &Dockerfile,
    ) -> Result<Arc<Self>> {
        let mut consumed = BTreeSet::new();
        let globals = globals(dockerfile, &options, &mut consumed)?;
        let mut plan = Plan::new(dockerfile, &globals, &options.target)?;
        let labels = dockerfile::labels(&options.labels);
        if let Some(stage) = plan.stages.get_mut(plan.target) {
            stage.steps.extend(labels);
        }
        let images = &engine.images;
        let sources = options.cache_from.iter().filter_map(|name| {
            let image = images.resolve(name).ok()?;
            images.store().hold(&image.id).ok().map(Arc::new)
        });
        let sources = sources.collect();
        let results = plan.stages.iter().map(|_| OnceCell::new()).collect();
        Ok(Arc::new(Self {
            engine,
            options,
            context,
            escape: dockerfile.escape,
            plan,
            globals,
            warnings: dockerfile.warnings.clone(),
            consumed: Mutex::new(consumed),
            results,
            sources,
            cancelled: AtomicBool::new(false),
        }))
    }

    /// Builds and names the image; `out` is told all but a failure. Returns the image's id.
    ///
    /// # Errors
    /// What went wrong, in the words that the client is to see.
    pub async fn run(self: Arc<Self>, out: &Out) -> Result<String, Failed> {
        let _cancel = Cancel(Arc::clone(&self));
        for warning in &self.warnings {
            out.text(format!("[WARNING]: {warning}\n")).await?;
        }
        let mut receivers = Vec::new();
        let mut stages = Vec::new();
        let mut number = 0;
        for &index in &self.plan.needed {
            let (stage_out, receiver) = Out::new();
            receivers.push(receiver);
            let first = number;
            number += 1 + self.plan.stages.get(index).map_or(0, |stage| stage.steps.len());
            let job = Arc::clone(&self);
            stages.push(async move { job.result(index, &stage_out, first).await.map(drop) });
        }
        let forwarding = async { forward(receivers, out).await.map_err(Failed::from) };
        let building = try_join_all(stages);
        // What the stages that work have told is passed on even if another one fails.
        let (built, forwarded) = tokio::join!(building, forwarding);
        built?;
        forwarded?;
        let state = self.result(self.plan.target, out, 0).await?;
        self.finish(&state, out).await
    }

    async fn finish(self: &Arc<Self>, state: &Arc<State>, out: &Out) -> Result<String, Failed> {
        let Some(hold) = state.image.clone() else {
            return Err(Error::invalid("No image was generated. Is your Dockerfile empty?").into());
        };
        let unused = self.unused_arguments();
        if !unused.is_empty() {
            out.text(format!(
                "[Warning] One or more build-args [{}] were not consumed\n",
                unused.join(" ")
            ))
            .await?;
        }
        let id = hold.image().id.to_string();
        let (images, names) = (self.engine.images.clone(), self.options.names.clone());
        blocking(move || images.reveal(&hold, &names)).await?;
        out.text(format!("Successfully built {}\n", state.short_id()))
            .await?;
        for name in &self.options.names {
            out.text(format!("Successfully tagged {}\n", name.familiar()))
                .await?;
        }
        Ok(id)
    }

    fn unused_arguments(&self) -> Vec<String> {
        let consumed = self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        let given = self.options.arguments.keys();
        let unused = given.filter(|name| !consumed.contains(*name) && !PROXIES.contains(&name.as_str()));
        unused.cloned().collect()
    }

    /// Whether the build goes on.
    pub fn goes_on(&self) -> bool {
        !self.cancelled.load(Ordering::Acquire)
    }

    /// The result of a stage, which is built if that has not happened yet. `first` is how many steps come before it.
    pub(super) fn result<'a>(
        self: &'a Arc<Self>,
        index: usize,
        out: &'a Out,
        first: usize,
    ) -> BoxFuture<'a, Result<Arc<State>, Failed>> {
        async move {
            let cell = self
                .results
                .get(index)
                .ok_or_else(|| Error::internal("there is no such stage"))?;
            let state = cell.get_or_try_init(|| self.stage(index, out, first)).await?;
            Ok(Arc::clone(state))
        }
        .boxed()
    }

    /// What `--from=NAME` in stage `index` means: the files of a stage or of an image.
    pub(super) async fn source(
        self: &Arc<Self>,
        index: usize,
        name: &str,
        out: &Out,
    ) -> Result<Arc<State>, Failed> {
        match self.plan.source(index, name)? {
            Target::Stage(stage) => self.result(stage, out, 0).await,
            Target::Image(name) => Ok(Arc::new(State::on(Some(self.base_image(&name, "", out).await?)))),
            Target::Scratch => Ok(Arc::new(State::on(None))),
        }
    }

    async fn stage(self: &Arc<Self>, index: usize, out: &Out, first: usize) -> Result<Arc<State>, Failed> {
        let stage = self
            .plan
            .stages
            .get(index)
            .ok_or_else(|| Error::internal("there is no such stage"))?;
        let total = self.plan.steps();
        out.text(format!("Step {}/{total} : {}\n", first + 1, stage.text))
            .await?;
        let mut state = self
            .begin(stage, index, out)
            .await
            .map_err(|failed| at_line(stage.line, failed))?;
        out.text(format!(" ---> {}\n", state.short_id())).await?;
        let triggers = state.config.on_build.take().unwrap_or_default();
        if !triggers.is_empty() {
            let plural = if triggers.len() == 1 { "" } else { "s" };
            out.text(format!("# Executing {} build trigger{plural}\n", triggers.len()))
                .await?;
        }
        for trigger in &triggers {
            let step = dockerfile::trigger(trigger, self.escape)?;
            self.step(&mut state, &step, index, out)
                .await
                .map_err(|failed| at_line(stage.line, failed))?;
        }
        for (at, step) in stage.steps.iter().enumerate() {
            out.text(format!("Step {}/{total} : {}\n", first + at + 2, step.text))
                .await?;
            if let Err(failed) = self.step(&mut state, step, index, out).await {
                if failed.code != 0 {
                    out.text(format!(
                        "Line {} of the Dockerfile failed: {}
",
                        step.line, step.text
                    ))
                    .await?;
                }
                return Err(at_line(step.line, failed));
            }
        }
        if state.image.is_some() {
            out.image(&state.id()).await?;
        }
        Ok(Arc::new(state))
    }

    async fn begin(self: &Arc<Self>, stage: &Stage, index: usize, out: &Out) -> Result<State, Failed> {
        let mut state = match &stage.base {
            Target::Scratch => State::on(None),
            Target::Stage(base) if *base < index => {
                let base = self.result(*base, out, 0).await?;
                let mut state = State::on(base.image.clone());
                state.config.clone_from(&base.config);
                state.key.clone_from(&base.key);
                state
            }
            Target::Stage(_) => return Err(Error::internal("a stage cannot begin with a later one").into()),
            Target::Image(name) => {
                let platform = stage.platform.as_deref().unwrap_or(&self.options.platform);
                State::on(Some(self.base_image(name, platform, out).await?))
            }
        };
        if let Some(hold) = &state.image {
            state.author.clone_from(&hold.image().config.author);
        }
        Ok(state)
    }

    /// The image that a stage begins with.
    async fn base_image(&self, name: &str, platform: &str, out: &Out) -> Result<Arc<Hold>, Failed> {
        super::base::find(self, name, platform, out).await
    }

    async fn step(
        self: &Arc<Self>,
        state: &mut State,
        step: &Step,
        index: usize,
        out: &Out,
    ) -> Result<(), Failed> {
        if !self.goes_on() {
            return Err(Error::new(Kind::Conflict, "the build was cancelled").into());
        }
        match &step.instruction {
            Instruction::Run(run) => super::run::run(self, state, run, index, out).await,
            Instruction::Copy(copy) => super::copy::copy(self, state, copy, index, out).await,
            Instruction::Workdir(path) => super::copy::workdir(self, state, path, out).await,
            Instruction::Arg(arguments) => {
                let comment = self.declare(state, arguments)?;
                self.remark(state, &comment, out).await
            }
            other => {
                let comment = metadata::apply(state, other, self.escape)?;
                let comment = comment.ok_or_else(|| Error::internal("an instruction has no meaning"))?;
                self.remark(state, &comment, out).await
            }
        }
    }

    /// `ARG` in a stage.
    fn declare(&self, state: &mut State, arguments: &[(String, Option<String>)]) -> Result<String> {
        let mut comment = "ARG".to_owned();
        // All of one instruction see what was before it.
        let variables = state.variables();
        for (name, default) in arguments {
            let name = expand::word(name, self.escape, &variables)?;
            let default = default
                .as_ref()
                .map(|text| expand::word(text, self.escape, &variables))
                .transpose()?;
            comment.push_str(&format!(" {name}"));
            if let Some(default) = &default {
                comment.push_str(&format!("={default}"));
            }
            self.consumed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name.clone());
            let given = self.options.arguments.get(&name).cloned().flatten();
            let global = || self.globals.get(&name).cloned();
            let value = given.or(default).or_else(global);
            state.arguments.insert(name, value);
        }
        Ok(comment)
    }

    /// A step that changes the configuration alone.
    async fn remark(self: &Arc<Self>, state: &mut State, comment: &str, out: &Out) -> Result<(), Failed> {
        let created_by = state.remark(comment, false);
        let key = self.key(state, &created_by, &[]);
        if let Some(hold) = self.cached(state, &key, &created_by) {
            return use_cached(state, hold, key, out).await;
        }
        let hold = self.commit(state, &created_by, None).await?;
        self.keep(state, key, &created_by, &hold).await?;
        state.image = Some(hold);
        out.text(format!(" ---> {}\n", state.short_id())).await?;
        Ok(())
    }

    /// The key of a step in the cache.
    pub(super) fn key(&self, state: &State, created_by: &str, more: &[&[u8]]) -> String {
        let config = serde_json::to_vec(&state.config).unwrap_or_default();
        let id = state.id();
        let mut parts = vec![
            id.as_bytes(),
            created_by.as_bytes(),
            &config,
            state.author.as_bytes(),
        ];
        parts.extend(more);
        cache::key(&parts)
    }

    /// What was built before for this step.
    pub(super) fn cached(&self, state: &State, key: &str, created_by: &str) -> Option<Arc<Hold>> {
        if self.options.no_cache {
            return None;
        }
        if self.options.cache_from.is_empty() {
            return self.engine.build_cache.find(key);
        }
        let source = self
            .sources
            .iter()
            .find(|source| continues(source.image(), state, created_by))?;
        self.seed(state, source, created_by).ok()
    }

    /// Takes the next step of an image that was built elsewhere.
    fn seed(&self, state: &State, source: &Hold, created_by: &str) -> Result<Arc<Hold>> {
        let image = source.image();
        let done = state
            .image
            .as_ref()
            .map_or(0, |hold| hold.image().config.history.len());
        let history = image.config.history.get(..=done).unwrap_or_default();
        let layers = history.iter().filter(|step| !step.empty_layer).count();
        let mut config = state.next(created_by, None).image_config();
        config.history = history.to_vec();
        config.created = history.last().and_then(|step| step.created.clone());
        let base = image.up_to(layers);
        self.store().compose_kept(Some(&base), None, config).map(Arc::new)
    }

    /// Makes the image that a step leads to, of what it has changed.
    pub(super) async fn commit(
        &self,
        state: &State,
        created_by: &str,
        changed: Option<Changed>,
    ) -> Result<Arc<Hold>> {
        let (images, state, created_by) = (self.engine.images.clone(), state.clone(), created_by.to_owned());
        blocking(move || {
            let layer = changed.as_ref().map(|Changed { upper, taken }| LayerFrom::Upper {
                path: upper,
                taken: *taken,
            });
            images.commit_kept(state.next(&created_by, layer)).map(Arc::new)
        })
        .await
    }

    /// Remembers a step, and that it came after the one that `state` knows.
    pub(super) async fn keep(
        &self,
        state: &mut State,
        key: String,
        description: &str,
        hold: &Arc<Hold>,
    ) -> Result<()> {
        let before = state.image.as_ref().map_or(0, |hold| hold.image().layers.len());
        let own = hold.image().layers.get(before..).unwrap_or_default();
        let size = own.iter().map(|layer| layer.size).sum();
        let parent = std::mem::replace(&mut state.key, key.clone());
        let (cache, description, hold) = (
            self.engine.build_cache.clone(),
            description.to_owned(),
            Arc::clone(hold),
        );
        blocking(move || cache.keep(&key, &parent, &description, &hold, size)).await
    }

    pub(super) fn store(&self) -> &Arc<ImageStore> {
        self.engine.images.store()
    }
}

/// Takes the result of an earlier build.
pub(super) async fn use_cached(
    state: &mut State,
    hold: Arc<Hold>,
    key: String,
    out: &Out,
) -> Result<(), Failed> {
    state.key = key;
    state.image = Some(hold);
    out.text(format!(" ---> Using cache\n ---> {}\n", state.short_id()))
        .await?;
    Ok(())
}

/// Whether `image` was built upon what `state` has so far, and its next step was this one.
fn continues(image: &Image, state: &State, created_by: &str) -> bool {
    let (history, layers) = state.image.as_ref().map_or_else(Default::default, |hold| {
        let image = hold.image();
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
        (image.config.history.clone(), layers)
    });
    let same_history = image.config.history.starts_with(&history);
    let next = image.config.history.get(history.len());
    let theirs: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    same_history && theirs.starts_with(&layers) && next.is_some_and(|next| next.created_by == created_by)
}

/// The variables before the first stage: arguments and platforms.
fn globals(dockerfile: &Dockerfile, options: &Options, consumed: &mut BTreeSet<String>) -> Result<Variables> {
    let mut globals = platforms(&options.platform);
    for step in &dockerfile.globals {
        let Instruction::Arg(arguments) = &step.instruction else {
            continue;
        };
        let before = globals.clone();
        for (name, default) in arguments {
            consumed.insert(name.clone());
            let given = options.arguments.get(name).cloned().flatten();
            let value = match (given, default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(expand::word(default, dockerfile.escape, &before)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.insert(name.clone(), value);
            }
        }
    }
    Ok(globals)
}

/// `TARGETPLATFORM` and its like.
fn platforms(target: &str) -> Variables {
    let host = berth_runtime::image::Platform::host();
    let host = match &host.variant {
        Some(variant) => format!("{}/{}/{variant}", host.os, host.architecture),
        None => format!("{}/{}", host.os, host.architecture),
    };
    let target = if target.is_empty() { host.as_str() } else { target };
    let mut variables = BTreeMap::new();
    for (kind, platform) in [("BUILD", host.as_str()), ("TARGET", target)] {
        let mut parts = platform.split('/');
        variables.insert(format!("{kind}PLATFORM"), platform.to_owned());
        for part in ["OS", "ARCH", "VARIANT"] {
            variables.insert(
                format!("{kind}{part}"),
                parts.next().unwrap_or_default().to_owned(),
            );
        }
    }
    variables
}

fn at_line(line: usize, mut failed: Failed) -> Failed {
    if line > 0
        && failed.code == 0
        && !failed.message.starts_with("dockerfile")
        && !failed.message.contains(" (line ")
    {
        failed.message = format!("{} (line {line} of the Dockerfile)", failed.message);
    }
    failed
}

/// Work that waits for the disk, where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a piece of work was broken off").caused_by(error)),
    }
}
