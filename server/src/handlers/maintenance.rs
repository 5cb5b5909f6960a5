//! What is on disk, checked and mended: Berth's own operations.

use berth_api::{
    Ctx, MaintenanceApi, SystemCheckQuery, SystemRepairHeaders, SystemRepairQuery,
    models::{CheckFinding, CheckFindingKind, CheckFindingOutcome, SystemCheckResponse},
};
use berth_runtime::{
    Kind,
    image::{Fault, Finding, Outcome},
    registry::Credentials,
};

use crate::{
    engine::{Engine, check},
    failure::{Failure, Reply},
};

impl MaintenanceApi for Engine {
    async fn system_check(&self, _: Ctx, query: SystemCheckQuery) -> Reply<SystemCheckResponse> {
        if query.repair {
            let message = "what mends is no GET: POST /system/check";
            return Err(Failure::new(Kind::Invalid, message));
        }
        run(self, None).await
    }

    async fn system_repair(
        &self,
        _: Ctx,
        query: SystemRepairQuery,
        headers: SystemRepairHeaders,
    ) -> Reply<SystemCheckResponse> {
        let credentials = Credentials::parse(&headers.x_registry_auth)?;
        run(self, query.repair.then_some(credentials)).await
    }
}

async fn run(engine: &Engine, repair: Option<Credentials>) -> Reply<SystemCheckResponse> {
    let repaired = repair.is_some();
    let report = check::run(engine, repair).await?;
    let mut findings: Vec<CheckFinding> = report
        .findings
        .into_iter()
        .map(|finding| shown(engine, finding))
        .collect();
    findings.extend(
        engine
            .containers
            .without_image()
            .into_iter()
            .map(|(id, image)| CheckFinding {
                kind: CheckFindingKind::ImageMissing,
                subject: image,
                images: Vec::new(),
                containers: vec![id],
                detail: "the image of the container is lost: pull or load it and make the container again"
                    .to_owned(),
                outcome: match repaired {
                    true => CheckFindingOutcome::Kept,
                    false => CheckFindingOutcome::Reported,
                },
            }),
    );
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(SystemCheckResponse {
        repaired,
        images: count(report.images),
        names: count(report.names),
        blobs: count(report.blobs),
        bytes: i64::try_from(report.bytes).unwrap_or(i64::MAX),
        layers: count(report.layers),
        findings,
    })
}

fn shown(engine: &Engine, finding: Finding) -> CheckFinding {
    let images: Vec<String> = finding.images.iter().map(ToString::to_string).collect();
    let made_from = images.iter().flat_map(|image| engine.containers.made_from(image));
    CheckFinding {
        kind: match finding.fault {
            Fault::ContentDamaged => CheckFindingKind::ContentDamaged,
            Fault::ContentMissing => CheckFindingKind::ContentMissing,
            Fault::LayerDamaged => CheckFindingKind::LayerDamaged,
            Fault::LayerUnverified => CheckFindingKind::LayerUnverified,
            Fault::RecordDamaged => CheckFindingKind::RecordDamaged,
            Fault::Orphan => CheckFindingKind::Orphan,
        },
        subject: finding.subject,
        containers: made_from.map(|container| container.id().to_owned()).collect(),
        images,
        detail: finding.detail,
        outcome: match finding.outcome {
            Outcome::Reported => CheckFindingOutcome::Reported,
            Outcome::Fetched => CheckFindingOutcome::Fetched,
            Outcome::Rebuilt => CheckFindingOutcome::Rebuilt,
            Outcome::Removed => CheckFindingOutcome::Removed,
            Outcome::Kept => CheckFindingOutcome::Kept,
        },
    }
}
