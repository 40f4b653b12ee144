//! What machines say of units, each with an age.

use axum::extract::State;
use axum::http::Uri;
use fleet_api::v2::StateList;
use fleet_registry::keys::Area;
use unit_files::UnitName;

use super::super::query::Query;
use super::super::state::Api;
use super::super::views;
use super::{Answer, encoded};

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Answer {
    let query = Query::of(&uri);
    let areas = [Area::States, Area::Orders, Area::Presence, Area::Lost];
    let snapshot = api.registry.read(&areas).await?;
    let machine = match query.first("machine") {
        Some(text) => Some(api.machine_among(text, snapshot.states.keys().chain(snapshot.presence.keys()))?),
        None => None,
    };
    let unit = query.first("unit").map(str::to_owned);
    let now = api.now();
    encoded(move || {
        let is_asked = |name: &UnitName| unit.as_ref().is_none_or(|unit| unit == name.as_str());
        let mut states = Vec::new();
        for (id, rows) in
            snapshot.states.iter().filter(|(id, _)| machine.as_ref().is_none_or(|only| only == *id))
        {
            let rows =
                rows.iter().filter(|(name, _)| is_asked(name) && !views::has_left(&snapshot, id, name));
            states.extend(rows.map(|(name, row)| views::state(&snapshot, id, name, &row.value, now)));
        }
        states.sort_by(|a, b| (&a.unit, &a.machine).cmp(&(&b.unit, &b.machine)));
        StateList { revision: snapshot.revision.0, states }
    })
    .await
}
