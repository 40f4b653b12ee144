//! The machines' part: they carry orders out, acknowledge and refuse them, and writes of theirs get lost.

use super::*;

impl Kit {
    /// A present machine carries out what it is told: tombstones are acknowledged, the rest becomes active.
    pub fn obey(&mut self, id: &str) {
        self.acknowledge(id);
        let id = machine(id);
        if !self.presence.contains_key(&id) {
            return;
        }
        let mine: Vec<_> = self.orders.iter().filter(|((m, _), _)| *m == id).collect();
        let mine: Vec<_> =
            mine.into_iter().map(|((_, unit), order)| (unit.clone(), order.value.clone())).collect();
        for (unit, order) in mine {
            self.report(&id, &unit, &order, None);
        }
    }

    /// A present machine has stopped what it was told to.
    pub fn acknowledge(&mut self, id: &str) {
        let id = machine(id);
        if !self.presence.contains_key(&id) {
            return;
        }
        let gone =
            self.orders.iter().filter(|((m, _), order)| *m == id && order.value.wanted == Wanted::Gone);
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for (id, unit) in gone {
            let key = (id.clone(), unit.clone());
            self.orders.remove(&key);
            self.states.remove(&key);
            self.world.apply(Event::State(id.clone(), unit.clone(), None));
            self.world.apply(Event::Order(id, unit, None));
        }
    }

    pub fn refuse(&mut self, id: &str, unit: &str, why: &str) {
        let key = (machine(id), name(unit));
        let Some(order) = self.orders.get(&key).map(|o| o.value.clone()) else { return };
        let refused = Refused { number: order.number, reason: Reason::new("shadowed", why) };
        self.report(&key.0, &key.1, &order, Some(refused));
    }

    /// The machine refuses its order because it has accepted a later one.
    pub fn refuse_as_stale(&mut self, id: &str, unit: &str) {
        let key = (machine(id), name(unit));
        let Some(order) = self.orders.get(&key).map(|o| o.value.clone()) else { return };
        let refused = Refused { number: order.number, reason: Reason::new(STALE_ORDER, "") };
        self.report(&key.0, &key.1, &order, Some(refused));
    }

    fn report(&mut self, id: &MachineId, unit: &UnitName, order: &Order, refused: Option<Refused>) {
        let row = StateRow {
            v: SCHEMA,
            uid: order.uid.clone(),
            applied: refused.is_none().then_some(order.number),
            wanted: Some(order.wanted),
            counters: Counters::default(),
            phase: if refused.is_some() { RowPhase::Refused } else { RowPhase::Settled },
            phase_since: Timestamp(0),
            load: "loaded".into(),
            active: if order.wanted == Wanted::Launched { "active" } else { "inactive" }.into(),
            sub: String::new(),
            result: String::new(),
            exit_status: None,
            generation: order.generation,
            unit_hash: None,
            on_disk: None,
            running: None,
            invocation: String::new(),
            restarts: 0,
            since: Timestamp(0),
            last_error: None,
            refused,
            boot: None,
            at: Timestamp(0),
            extra: Extra::new(),
        };
        let row = self.versioned(None, row);
        self.states.insert((id.clone(), unit.clone()), row.clone());
        self.world.apply(Event::State(id.clone(), unit.clone(), Some(row)));
    }

    /// The machine runs the unit and has lost its order, as after it was forgotten or the store restored.
    pub fn lose_order(&mut self, id: &str, unit: &str) {
        let key = (machine(id), name(unit));
        let Some(order) = self.orders.remove(&key) else { return };
        self.report(&key.0, &key.1, &order.value, None);
        let mut row = self.states[&key].value.clone();
        row.phase = RowPhase::Orphan;
        row.running = Some(order.value.run_hash);
        let row = self.versioned(None, row);
        self.states.insert(key.clone(), row.clone());
        self.world.apply(Event::Order(key.0.clone(), key.1.clone(), None));
        self.world.apply(Event::State(key.0, key.1, Some(row)));
    }

    pub fn lose_placement(&mut self, unit: &str) {
        self.placements.remove(&name(unit));
        self.world.apply(Event::Placement(name(unit), None));
    }
}
