//! The world as a plan sees it while it is being made: the records, plus what the plan has decided so far.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use unit_files::{Glob, UnitName};

use crate::ids::MachineId;
use crate::records::{RefusalHold, UnitRecord, Wanted};
use crate::world::{MachineView, World};

/// Index of a machine in the plan, in the order of ids: comparing slots compares ids.
pub type Slot = u32;

#[derive(Debug, Default)]
struct Changes<'w> {
    /// Orders that the plan puts here, with the globs they bring.
    put: BTreeMap<UnitName, (Wanted, &'w [Glob])>,
    /// Those of them that bring any.
    guards: BTreeSet<UnitName>,
    /// New globs of units that stand here: their orders are written when everything else has its place.
    announced: BTreeMap<UnitName, &'w [Glob]>,
}

#[derive(Debug)]
pub struct Board<'w> {
    world: &'w World,
    ids: Vec<&'w MachineId>,
    views: Vec<&'w MachineView>,
    load: Vec<u32>,
    /// Machines that take new units, least loaded first.
    by_load: BTreeSet<(u32, Slot)>,
    changes: Vec<Changes<'w>>,
    /// Orders put by this plan, by unit.
    put_at: BTreeMap<UnitName, BTreeSet<Slot>>,
    /// Machines by the metadata that a unit asks for, found once per plan.
    by_metadata: HashMap<&'w BTreeMap<String, BTreeSet<String>>, Vec<Slot>>,
    slots: OnceCell<HashMap<&'w str, Slot>>,
}

impl<'w> Board<'w> {
    #[must_use]
    pub fn new(world: &'w World) -> Board<'w> {
        let ids: Vec<&MachineId> = world.machines().keys().collect();
        let views: Vec<&MachineView> = world.machines().values().collect();
        let load: Vec<u32> = views.iter().map(|view| view.load()).collect();
        let by_load = (0..).zip(&views).filter(|(_, view)| view.is_present() && !view.is_cordoned());
        let by_load = by_load.map(|(slot, _)| (load[slot as usize], slot)).collect();
        let changes = views.iter().map(|_| Changes::default()).collect();
        Board {
            world,
            ids,
            views,
            load,
            by_load,
            changes,
            put_at: BTreeMap::new(),
            by_metadata: HashMap::new(),
            slots: OnceCell::new(),
        }
    }

    pub fn world(&self) -> &'w World {
        self.world
    }
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<'w> {
        0..Slot::try_from(self.ids.len()).expect("fewer than 2^32 machines")
    }
    pub fn id(&self, slot: Slot) -> &'w MachineId {
        self.ids[slot as usize]
    }
    pub fn view(&self, slot: Slot) -> &'w MachineView {
        self.views[slot as usize]
    }
    pub fn load(&self, slot: Slot) -> u32 {
        self.load[slot as usize]
    }
    pub fn by_load(&self) -> impl Iterator<Item = Slot> + '_ {
        self.by_load.iter().map(|(_, slot)| *slot)
    }
    pub fn slot(&self, machine: &str) -> Option<Slot> {
        let slots =
            self.slots.get_or_init(|| (0..).zip(&self.ids).map(|(slot, id)| (id.as_str(), slot)).collect());
        slots.get(machine).copied()
    }
    pub fn unit(&self, name: &UnitName) -> Option<&'w UnitRecord> {
        self.world.units().get(name).map(|u| &u.value)
    }

    /// Machines whose metadata fits, present or not, in the order of ids.
    pub fn with_metadata(&mut self, unit: &'w UnitRecord) -> &[Slot] {
        let requirements = unit.requirements();
        let views = &self.views;
        self.by_metadata.entry(&requirements.metadata).or_insert_with(|| {
            let fits = (0..).zip(views).filter(|(_, view)| requirements.fits_metadata(view.metadata()));
            fits.map(|(slot, _)| slot).collect()
        })
    }

    /// Notes that the plan writes this order.
    pub fn put(&mut self, slot: Slot, name: &UnitName, wanted: Wanted, globs: &'w [Glob]) {
        let before = self.wanted_at(name, slot);
        let changes = &mut self.changes[slot as usize];
        changes.put.insert(name.clone(), (wanted, globs));
        if !globs.is_empty() {
            changes.guards.insert(name.clone());
        }
        self.put_at.entry(name.clone()).or_default().insert(slot);
        let counts = |wanted: Option<Wanted>| wanted.is_some_and(|w| w != Wanted::Gone);
        let old = self.load[slot as usize];
        let new = match (counts(before), counts(Some(wanted))) {
            (false, true) => old + 1,
            (true, false) => old - 1,
            _ => return,
        };
        self.load[slot as usize] = new;
        if self.by_load.remove(&(old, slot)) {
            self.by_load.insert((new, slot));
        }
    }

    /// Notes that a unit which stands here is to get other globs than its order has.
    pub fn announce(&mut self, slot: Slot, name: &UnitName, globs: &'w [Glob]) {
        self.changes[slot as usize].announced.insert(name.clone(), globs);
    }

    /// Whether this plan has written the order already.
    pub fn is_put(&self, name: &UnitName, slot: Slot) -> bool {
        self.changes[slot as usize].put.contains_key(name)
    }

    /// What the order here wants, after the plan so far.
    pub fn wanted_at(&self, name: &UnitName, slot: Slot) -> Option<Wanted> {
        match self.changes[slot as usize].put.get(name) {
            Some((wanted, _)) => Some(*wanted),
            None => self.view(slot).orders().get(name).map(|order| order.value.wanted),
        }
    }

    /// Whether the unit is to be on the machine: assigned there and not going.
    pub fn is_scheduled(&self, name: &str, slot: Slot) -> bool {
        let wanted = match self.changes[slot as usize].put.get(name) {
            Some((wanted, _)) => Some(*wanted),
            None => self.view(slot).orders().get(name).map(|order| order.value.wanted),
        };
        wanted.is_some_and(|wanted| wanted != Wanted::Gone)
    }

    /// Machines that the unit is to be on, in the order of ids.
    pub fn scheduled_at<'b>(&'b self, name: &'b str) -> impl Iterator<Item = Slot> + 'b {
        let mut slots: BTreeSet<Slot> = self.put_at.get(name).cloned().unwrap_or_default();
        if let Ok(name) = UnitName::parse(name) {
            slots.extend(self.world.orders_of(&name).filter_map(|id| self.slot(id.as_str())));
        }
        slots.into_iter().filter(move |slot| self.is_scheduled(name, *slot))
    }

    /// Units that occupy the machine and whose names start with `prefix`: orders, those of this plan, and tombstones
    /// that are not acknowledged.
    pub fn occupants_from<'b>(
        &'b self,
        slot: Slot,
        prefix: &'b str,
    ) -> impl Iterator<Item = (&'b UnitName, Wanted)> + 'b {
        let put = &self.changes[slot as usize].put;
        let stored = self.view(slot).orders().range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let stored = stored.take_while(move |(name, _)| name.as_str().starts_with(prefix));
        let stored = stored.filter(move |(name, _)| !put.contains_key(*name));
        let planned = put.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let planned = planned.take_while(move |(name, _)| name.as_str().starts_with(prefix));
        stored
            .map(|(name, order)| (name, order.value.wanted))
            .chain(planned.map(|(name, (wanted, _))| (name, *wanted)))
    }

    /// Units on the machine that name others in `Conflicts=`, with their patterns. For one that is to come these are
    /// also the patterns that this plan takes away, because a pass never fills the room that it makes, and those that
    /// a unit which stands there is to get.
    pub fn guards(&self, slot: Slot, is_coming: bool) -> impl Iterator<Item = (&UnitName, &[Glob], Wanted)> {
        let view = self.view(slot);
        let changes = &self.changes[slot as usize];
        let put = &changes.put;
        let stored = view.guards().iter().filter(move |name| is_coming || !put.contains_key(*name));
        let stored = stored.filter_map(move |name| {
            let order = &view.orders().get(name)?.value;
            Some((name, order.conflicts.as_slice(), order.wanted))
        });
        let planned = changes.guards.iter().filter_map(move |name| {
            let (wanted, globs) = put.get(name)?;
            Some((name, *globs, *wanted))
        });
        let announced =
            changes.announced.iter().filter(move |(name, _)| is_coming && !put.contains_key(*name));
        let announced =
            announced.filter_map(move |(name, globs)| Some((name, *globs, self.wanted_at(name, slot)?)));
        stored.chain(planned).chain(announced)
    }

    /// What keeps the machine out for this unit because it refused it.
    pub fn refusal(&self, name: &UnitName, slot: Slot) -> Option<&'w RefusalHold> {
        // A global unit has no other place to go to: its machines try again by themselves.
        let placement = &self.world.placements().get(name)?.value;
        let placement = (!self.unit(name)?.is_global()).then_some(placement)?;
        placement.refusals.iter().find(|hold| hold.machine == *self.id(slot))
    }

    /// Of two units that stand on one machine and conflict, the one whose record changed last gives way; in the same
    /// revision the one with the later name.
    pub fn gives_way(&self, name: &UnitName, other: &UnitName) -> bool {
        let age = |name: &UnitName| (self.world.unit_revision(name), name.clone());
        age(name) > age(other)
    }
}
