//! `COPY`, `ADD` and `WORKDIR`.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use berth_runtime::{
    Error, Result,
    error::Context as _,
    image::{
        Hold, ImageStore, Limits, Scratch,
        build::{self, Chmod, CopyOptions, Fingerprint, Kind, Merged},
    },
};

use super::{
    context::Context,
    dockerfile, expand, fetch, git, glob,
    ignore::Patterns,
    job::{Changed, Job, blocking, use_cached},
    metadata::working_directory,
    owner,
    progress::{Failed, Out},
    state::State,
};

/// Something that is copied.
#[derive(Clone, Debug)]
struct Source {
    tree: Arc<Tree>,
    /// Its real path in that tree.
    path: Vec<u8>,
    kind: Kind,
    /// Path that `--parents` keeps.
    parents: Vec<u8>,
    /// The path by which `--exclude` knows it: a file's name, and with `--parents` all that is kept.
    shown: Vec<u8>,
    /// Whether it came by its address, and is an archive only if that was asked for.
    fetched: bool,
}

impl Source {
    /// Something that was made or fetched for this step alone.
    fn new(tree: Arc<Tree>, path: Vec<u8>, kind: Kind) -> Self {
        Self {
            shown: if kind == Kind::Directory {
                Vec::new()
            } else {
                path.clone()
            },
            tree,
            path,
            kind,
            parents: Vec::new(),
            fetched: true,
        }
    }

    /// What it is called by whoever copies it: a link gives its name to what it leads to.
    fn name(&self) -> Option<&[u8]> {
        let name = self.shown.rsplit(|b| *b == b'/').next();
        name.filter(|name| !name.is_empty())
    }

    /// Whether `--exclude` leaves out what is at `below` in it; nothing below it is the source itself.
    fn leaves_out(&self, exclude: &Patterns, below: &[u8]) -> bool {
        let slash: &[u8] = if self.shown.is_empty() || below.is_empty() {
            b""
        } else {
            b"/"
        };
        let path = [&self.shown, slash, below].concat();
        !exclude.is_empty() && !path.is_empty() && exclude.leave_out(&String::from_utf8_lossy(&path))
    }
}

/// A tree that is copied from.
#[derive(Debug)]
enum Tree {
    Job(Arc<Job>),
    Merged(
        Merged,
        #[expect(dead_code, reason = "keeps the directory that may be needed to mount")] Scratch,
    ),
    Made(Context),
}

impl Tree {
    fn root(&self) -> BorrowedFd<'_> {
        match self {
            Self::Job(job) => job.context.root(),
            Self::Merged(merged, _) => merged.root(),
            Self::Made(context) => context.root(),
        }
    }
}

/// How it is copied, all words expanded.
struct Work {
    sources: Vec<Source>,
    destination: String,
    into: bool,
    add: bool,
    parents: bool,
    link: bool,
    unpack: Option<bool>,
    chmod: Option<Chmod>,
    exclude: Patterns,
    owner: Option<(u32, u32)>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// Carries `COPY` or `ADD` out.
pub async fn copy(
    job: &Arc<Job>,
    state: &mut State,
    copy: &dockerfile::Copy,
    index: usize,
    out: &Out,
) -> Result<(), Failed> {
    let name = if copy.add { "ADD" } else { "COPY" };
    let variables = state.variables();
    let word = |text: &String| expand::word(text, job.escape, &variables);
    let mut words = copy.words.iter().map(word).collect::<Result<Vec<_>>>()?;
    let target = words.pop().unwrap_or_default();
    if target.is_empty() || words.is_empty() {
        return Err(Error::invalid(format!("{name} requires at least two arguments")).into());
    }
    let destination = absolute(&state.config.working_dir, &target);
    let chown = copy
        .chown
        .as_ref()
        .map(word)
        .transpose()?
        .filter(|text| !text.is_empty());
    let chmod = copy
        .chmod
        .as_ref()
        .map(word)
        .transpose()?
        .filter(|text| !text.is_empty());
    let exclude = copy.exclude.iter().map(word).collect::<Result<Vec<_>>>()?;
    let exclude = Patterns::new(exclude.iter().map(String::as_str));
    let chmod = chmod.as_deref().map(Chmod::parse).transpose()?;

    let tree = match &copy.from {
        None => Arc::new(Tree::Job(Arc::clone(job))),
        Some(from) => {
            let from = word(from)?;
            let source = job.source(index, &from, out).await?;
            Arc::new(merged(job.store(), &source).await?)
        }
    };
    let sources = sources(job, copy, &words, tree, state, target.ends_with('/'), out).await?;
    if sources.len() > 1 && !target.ends_with('/') {
        return Err(Error::invalid(format!(
            "When using {name} with more than one source file, the destination must be a directory and end with a /"
        ))
        .into());
    }

    let (list, patterns) = (sources.clone(), exclude.clone());
    let digest = blocking(move || fingerprint(&list, &patterns)).await?;
    let what = match sources.as_slice() {
        [_] if copy.add && fetch::is_remote(&words.concat()) => "",
        [one] if one.kind == Kind::Directory => "dir:",
        [_] => "file:",
        _ => "multi:",
    };
    let mut flags = String::new();
    if let Some(chown) = &chown {
        flags.push_str(&format!("--chown={chown}"));
    }
    if let Some(chmod) = &copy.chmod {
        flags.push_str(&format!("--chmod={chmod}"));
    }
    let created_by = state.remark(&format!("{name} {flags}{what}{digest} in {target} "), true);
    let details = format!(
        "{:?}{:?}{:?}{:?}{}",
        copy.parents,
        copy.link,
        copy.unpack,
        copy.exclude,
        target.ends_with('/')
    );
    let key = job.key(state, &created_by, &[details.as_bytes()]);
    if let Some(hold) = job.cached(state, &key, &created_by) {
        return use_cached(state, hold, key, out).await;
    }
    let _alone = job.engine.build_cache.alone(&key).await;
    if let Some(hold) = job.cached(state, &key, &created_by) {
        return use_cached(state, hold, key, out).await;
    }
    let preserve = copy.from.is_some() && chown.is_none();
    let work = Work {
        sources,
        into: target.ends_with('/') || copy.parents,
        destination,
        add: copy.add,
        parents: copy.parents,
        link: copy.link,
        unpack: copy.unpack,
        chmod,
        exclude,
        owner: (!preserve).then_some((0, 0)),
    };
    let (job_, lowers) = (Arc::clone(job), state.lowers(job.store()));
    let layer = blocking(move || carry_out(&job_, work, lowers, chown.as_deref())).await?;
    let hold = job.commit(state, &created_by, Some(layer.changed())).await?;
    job.keep(state, key, &created_by, &hold).await?;
    state.image = Some(hold);
    out.text(format!(" ---> {}\n", state.short_id())).await?;
    Ok(())
}

/// `WORKDIR`: the directory is made.
pub async fn workdir(job: &Arc<Job>, state: &mut State, path: &str, out: &Out) -> Result<(), Failed> {
    let path = expand::word(path, job.escape, &state.variables())?;
    if path.is_empty() {
        return Err(Error::invalid("cannot normalize nothing: WORKDIR needs a path").into());
    }
    let path = working_directory(&state.config.working_dir, &path);
    state.config.working_dir.clone_from(&path);
    let created_by = state.remark(&format!("WORKDIR {path}"), true);
    let key = job.key(state, &created_by, &[]);
    if let Some(hold) = job.cached(state, &key, &created_by) {
        return use_cached(state, hold, key, out).await;
    }
    let (store, lowers) = (Arc::clone(job.store()), state.lowers(job.store()));
    let layer = blocking(move || {
        let layer = Layer::new(&store, &lowers)?;
        build::make_directory(layer.root(), path.as_bytes())?;
        Ok(layer.unmounted())
    })
    .await?;
    let hold = job.commit(state, &created_by, Some(layer.changed())).await?;
    job.keep(state, key, &created_by, &hold).await?;
    state.image = Some(hold);
    out.text(format!(" ---> {}\n", state.short_id())).await?;
    Ok(())
}

/// A layer under construction: what is written to its root goes into its upper directory.
pub struct Layer {
    scratch: Scratch,
    root: Root,
}

enum Root {
    Merged(Merged),
    Plain(File),
    Done,
}

impl Layer {
    /// A layer on top of `lowers`. Blocks.
    ///
    /// # Errors
    /// If overlayfs or the file system refuses.
    pub fn new(store: &ImageStore, lowers: &[PathBuf]) -> Result<Self> {
        let scratch = store.scratch()?;
        let path = |name: &str| scratch.path().join(name);
        for name in ["upper", "work", "aside"] {
            std::fs::create_dir(path(name)).context(|| "cannot make a layer")?;
        }
        build::set_mode(&path("upper"), 0o755)?;
        let root = match lowers {
            [] => Root::Plain(File::open(path("upper")).context(|| "cannot open a layer")?),
            lowers => Root::Merged(Merged::new(
                lowers,
                Some((&path("upper"), &path("work"))),
                &path("aside"),
            )?),
        };
        Ok(Self { scratch, root })
    }

    /// What is below and what was written, as one.
    pub fn root(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Merged(merged) => merged.root(),
            Root::Plain(file) => file.as_fd(),
            // Nothing asks any more.
            Root::Done => rustix::stdio::stdin(),
        }
    }

    /// Nothing more is written.
    pub fn unmounted(mut self) -> Self {
        self.root = Root::Done;
        self
    }

    /// What was written.
    pub fn changed(&self) -> Changed {
        Changed {
            upper: self.scratch.path().join("upper"),
            taken: true,
        }
    }
}

/// The files of a stage or an image.
async fn merged(store: &Arc<ImageStore>, source: &State) -> Result<Tree> {
    let (store, hold, lowers) = (Arc::clone(store), source.image.clone(), source.lowers(store));
    blocking(move || {
        let _held: Option<Arc<Hold>> = hold;
        if lowers.is_empty() {
            return Ok(Tree::Made(Context::empty(&store)?));
        }
        let scratch = store.scratch()?;
        Ok(Tree::Merged(
            Merged::new(&lowers, None, &scratch.path())?,
            scratch,
        ))
    })
    .await
}

/// What is copied: files that are there, texts of the Dockerfile, and what has to be fetched.
async fn sources(
    job: &Arc<Job>,
    copy: &dockerfile::Copy,
    words: &[String],
    tree: Arc<Tree>,
    state: &State,
    // Whether a file goes into a directory, under its own name.
    needs_name: bool,
    out: &Out,
) -> Result<Vec<Source>, Failed> {
    let mut sources = Vec::new();
    for word in words {
        if let Some(heredoc) = copy
            .heredocs
            .iter()
            .find(|heredoc| is_heredoc(word, &heredoc.name))
        {
            let content = match heredoc.expand {
                true => expand::variables_only(&heredoc.content, job.escape, &state.variables())?,
                false => heredoc.content.clone(),
            };
            let (store, name) = (Arc::clone(job.store()), heredoc.name.clone());
            sources.push(blocking(move || made(&store, &name, content.as_bytes())).await?);
        } else if copy.add && fetch::is_remote(word) {
            let context = fetch::fetch(job, word, copy, needs_name, out).await?;
            sources.push(match git::is_git(word) {
                true => Source::new(Arc::new(Tree::Made(context)), Vec::new(), Kind::Directory),
                false => only_file(context)?,
            });
        } else {
            let (tree, word, from, parents) =
                (Arc::clone(&tree), word.clone(), copy.from.clone(), copy.parents);
            let name = if copy.add { "ADD" } else { "COPY" };
            sources.extend(blocking(move || found(tree, &word, name, from.is_some(), parents)).await?);
        }
    }
    Ok(sources)
}

fn is_heredoc(word: &str, name: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    word.strip_prefix("<<")
        .is_some_and(|rest| rest.trim_start_matches('-').trim_matches(['"', '\'']) == name)
}

/// A file made of a text.
fn made(store: &ImageStore, name: &str, content: &[u8]) -> Result<Source> {
    let context = Context::empty(store)?;
    if name.contains('/') || name == ".." || name == "." {
        return Err(Error::invalid(format!("{name:?} is no name of a file")));
    }
    let path = context.path().join(name);
    std::fs::write(&path, content).context(|| "cannot write a text of the Dockerfile")?;
    build::set_mode(&path, 0o644)?;
    only_file(context)
}

/// The file that a made context holds.
fn only_file(context: Context) -> Result<Source> {
    let names = build::names(context.root(), b"")?;
    let name = names.first().cloned().unwrap_or_default();
    Ok(Source::new(Arc::new(Tree::Made(context)), name, Kind::File))
}

/// What `word` names in a tree.
fn found(tree: Arc<Tree>, word: &str, name: &str, other: bool, parents: bool) -> Result<Vec<Source>> {
    let missing = || {
        let place = if other {
            ""
        } else {
            "in build context or excluded by .dockerignore: "
        };
        Error::invalid(format!(
            "{name} failed: file not found {place}stat {word}: file does not exist"
        ))
    };
    // `--parents` keeps what comes after `/./`.
    let (before, kept) = match word.split_once("/./") {
        Some(parts) if parents => parts,
        _ => ("", word),
    };
    let mut paths: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if glob::is_pattern(word) {
        let cleaned: Vec<&str> = word
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .collect();
        let depth = cleaned.len();
        let fits = |path: &[u8]| {
            let path = String::from_utf8_lossy(path).into_owned();
            glob::path(&cleaned, &path.split('/').collect::<Vec<_>>())
        };
        let any_depth = cleaned.contains(&"**");
        let enter = |path: &[u8]| {
            let parts = path.split(|b| *b == b'/').count();
            any_depth
                || (parts < depth && {
                    let text = String::from_utf8_lossy(path).into_owned();
                    glob::path(
                        cleaned.get(..parts).unwrap_or_default(),
                        &text.split('/').collect::<Vec<_>>(),
                    )
                })
        };
        let dropped = before
            .split('/')
            .filter(|part| !matches!(*part, "" | "."))
            .count();
        for path in build::find(tree.root(), &enter, &fits)? {
            let kept: Vec<&[u8]> = path.split(|b| *b == b'/').skip(dropped).collect();
            let kept = kept.join(&b'/');
            paths.push((path, kept));
        }
        if paths.is_empty() {
            return Err(match other {
                true => missing(),
                false => Error::invalid(format!("{name} failed: no source files were specified")),
            });
        }
    } else {
        paths.push((
            word.as_bytes().to_vec(),
            kept.trim_start_matches('/').as_bytes().to_vec(),
        ));
    }
    let mut sources = Vec::new();
    for (path, kept) in paths {
        let found = build::resolve(tree.root(), &path)?;
        let kind = found.kind.ok_or_else(missing)?;
        let shown = match (parents, kind) {
            (true, _) => kept.clone(),
            (false, Kind::Directory) => Vec::new(),
            (false, _) => path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec(),
        };
        let kept_parent = match parents {
            true => match kept.iter().rposition(|b| *b == b'/') {
                Some(at) if kind != Kind::Directory => kept.get(..at).unwrap_or_default().to_vec(),
                None if kind != Kind::Directory => Vec::new(),
                _ => kept,
            },
            false => Vec::new(),
        };
        sources.push(Source {
            tree: Arc::clone(&tree),
            path: found.path,
            kind,
            parents: kept_parent,
            shown,
            fetched: false,
        });
    }
    Ok(sources)
}

fn fingerprint(sources: &[Source], exclude: &Patterns) -> Result<String> {
    let mut all = Fingerprint::default();
    for source in sources.iter().filter(|source| !source.leaves_out(exclude, b"")) {
        all.text(&source.parents);
        let leave_out = |path: &[u8]| source.leaves_out(exclude, path);
        all.path(source.tree.root(), &source.path, &leave_out)?;
    }
    Ok(all.finish())
}

fn carry_out(job: &Arc<Job>, mut work: Work, lowers: Vec<PathBuf>, chown: Option<&str>) -> Result<Layer> {
    let below = if work.link { Vec::new() } else { lowers.clone() };
    let layer = Layer::new(job.store(), &below)?;
    if let Some(chown) = chown {
        // Names are looked up in the image, whatever is copied over.
        let owner = match work.link && !lowers.is_empty() {
            true => owner::find(Layer::new(job.store(), &lowers)?.root(), chown)?,
            false => owner::find(layer.root(), chown)?,
        };
        work.owner = Some(owner);
    }
    let go_on = || job.goes_on();
    let limits = Limits::default();
    for source in work
        .sources
        .iter()
        .filter(|source| !source.leaves_out(&work.exclude, b""))
    {
        let leave_out = |path: &[u8]| source.leaves_out(&work.exclude, path);
        let options = CopyOptions {
            owner: work.owner,
            name: source.name(),
            chmod: work.chmod.as_ref(),
            leave_out: &leave_out,
            go_on: &go_on,
        };
        let mut destination = work.destination.clone().into_bytes();
        if work.parents && !source.parents.is_empty() {
            destination.push(b'/');
            destination.extend(&source.parents);
        }
        let may_unpack = work.add && source.kind == Kind::File && work.unpack.unwrap_or(!source.fetched);
        if may_unpack && let Some(archive) = archive(source, &limits)? {
            build::unpack_into(archive, layer.root(), &destination, work.owner, &limits)?;
            continue;
        }
        build::copy(
            source.tree.root(),
            &source.path,
            layer.root(),
            &destination,
            work.into,
            &options,
        )?;
    }
    Ok(layer.unmounted())
}

/// The archive that a source is, if it is one.
fn archive(source: &Source, limits: &Limits) -> Result<Option<File>> {
    let mut file = build::open(source.tree.root(), &source.path)?;
    if !build::is_archive(&mut file, limits)? {
        return Ok(None);
    }
    build::open(source.tree.root(), &source.path).map(Some)
}

/// A destination from the root on; a slash at its end stays.
fn absolute(working_dir: &str, target: &str) -> String {
    let mut path = working_directory(working_dir, target);
    if (target.ends_with('/') || target == "." || target.ends_with("/.")) && !path.ends_with('/') {
        path.push('/');
    }
    path
}
