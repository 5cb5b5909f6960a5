//! Lists of containers.

use std::{collections::HashMap, sync::Arc};

use berth_api::{Filters, models::ContainerSummary};
use berth_runtime::Result;
use jiff::Timestamp;

use super::{Containers, filter::Selection, model::Container, summary};

/// What a list is to show.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Also containers that don't run.
    pub all: bool,
    /// Only so many, the newest, in whatever state; 0 and below: all that fit.
    pub limit: i64,
    /// With sizes.
    pub size: bool,
    /// Selection.
    pub filters: Filters,
}

impl Containers {
    /// The containers that fit, newest first.
    ///
    /// # Errors
    /// Invalid for a bad filter; not found for the containers named by `before` and `since`.
    pub async fn list(&self, request: ListRequest) -> Result<Vec<ContainerSummary>> {
        let chosen = self.choose(&request)?;
        let now = Timestamp::now();
        let mut meant: HashMap<&str, Option<String>> = HashMap::new();
        let links = self.index.links();
        let mut list = Vec::with_capacity(chosen.len());
        for container in &chosen {
            let name = container.config().image.as_str();
            let image = meant.entry(name).or_insert_with(|| self.image_id(name));
            let mut entry = summary::summarize(container, &container.now(), image.as_deref(), now);
            let further = links.get(container.id()).into_iter().flatten();
            entry.names.extend(further.map(|link| format!("/{link}")));
            list.push(entry);
        }
        if request.size {
            for (entry, container) in list.iter_mut().zip(&chosen) {
                if let Ok(size) = self.size(container).await {
                    (entry.size_rw, entry.size_root_fs) = (size.own, size.root_fs);
                }
            }
        }
        Ok(list)
    }

    fn choose(&self, request: &ListRequest) -> Result<Vec<Arc<Container>>> {
        let selection = Selection::read(request.filters.clone(), &self.index, |text| {
            self.image_family(text)
        })?;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let all = request.all || limit > 0 || selection.implies_all();
        let list = self.newest_first();
        let fits = |container: &&Arc<Container>| {
            let details = container.now();
            (all || details.state.is_running()) && selection.fits(container, &details)
        };
        let fitting = selection.cut(&list).iter().filter(fits);
        Ok(match limit {
            0 => fitting.cloned().collect(),
            limit => fitting.take(limit).cloned().collect(),
        })
    }
}
