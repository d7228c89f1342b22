//! Runs a component to rest through a scenario, again and again, with something going wrong each time.

use std::sync::Arc;
use std::time::Duration;

use base::{Random, Stop, Tasks};
use serde_json::{Value, json};

use super::world::{Api, Fault};
use crate::driver::{Component, Controller, Ctx, Descriptor};
use crate::events::Recorder;
use crate::{Client, Informers};

/// How long nothing must happen for the cluster to count as at rest. Longer than any injected delay, shorter than what
/// controllers wait for.
const REST: Duration = Duration::from_secs(3);

/// After so many times without rest the component is taken to run in circles.
const RESTLESS_MAX: usize = 500;

/// How late watches are when the caches are to be stale.
const STALE_BY: Duration = Duration::from_millis(700);

/// How PEM certificates and JSON Web Tokens begin in base64. Their keys and signatures are random.
const CERTIFICATE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS";
const TOKEN: &str = "ZXlK";

/// What happens to the cluster from outside, each step once everything is at rest.
pub enum Step<'a> {
    /// Something changes.
    Do(&'a (dyn Fn(&Api) + Sync)),
    /// Something changes again and again, until it reports that it changed nothing.
    UntilUnchanged(&'a (dyn Fn(&Api) -> bool + Sync)),
    /// Time passes.
    Wait(Duration),
}

/// What a component under test is made with.
pub struct Env {
    /// The cluster.
    pub api: Api,
    /// Acts on it; its writes count.
    pub client: Client,
    /// Caches over it.
    pub informers: Informers,
    /// Random names, seeded.
    pub random: Random,
    /// Events; not counted.
    pub recorder: Recorder,
}

/// Runs the controller over `objects` and `steps` to rest; then again with each of its writes failing, with each write's
/// answer lost, and with stale caches. The end must be the same each time, but for uids, generated names and times. Returns
/// the cluster after the undisturbed run.
pub async fn check_converges<S: Send + Sync + 'static>(
    descriptor: &'static Descriptor<S>,
    settings: Arc<S>,
    objects: &[Value],
    steps: &[Step<'_>],
) -> Api {
    let make = |env: Env| {
        let Env { api, client, informers, random, recorder } = env;
        let ctx = Ctx { client, informers, clock: Arc::new(api.clock()), random, recorder, settings: settings.clone() };
        Controller::new(descriptor, ctx) as Arc<dyn Component>
    };
    check_component(&make, &|_| {}, objects, steps).await
}

/// The same for any component, over a cluster that `prepare` has set up.
pub async fn check_component(
    make: &dyn Fn(Env) -> Arc<dyn Component>,
    prepare: &dyn Fn(&Api),
    objects: &[Value],
    steps: &[Step<'_>],
) -> Api {
    let run = async |disturb: &dyn Fn(&Api), what: &str| {
        let api = Api::new(Random::from_seed(1));
        prepare(&api);
        disturb(&api);
        run_scenario(&api, make, objects, steps, what).await;
        api
    };
    let calm = run(&|_| {}, "undisturbed").await;
    let end = normalised(&calm);
    let compare = |api: &Api, what: &str| {
        let (want, got) = (pretty(&end), pretty(&normalised(api)));
        assert!(want == got, "another end with {what}:\n{}", difference(&want, &got));
    };
    for number in 1..=calm.writes() {
        for fault in [Fault::NotDone, Fault::AnswerLost] {
            let what = format!("write {number} {fault:?}");
            compare(&run(&|api| api.fail_write(number, fault), &what).await, &what);
        }
    }
    let stale = run(&|api| api.delay_watches(STALE_BY), "stale caches").await;
    compare(&stale, "stale caches");
    for number in 1..=stale.writes() {
        let what = format!("stale caches and write {number} AnswerLost");
        let disturb = |api: &Api| {
            api.delay_watches(STALE_BY);
            api.fail_write(number, Fault::AnswerLost);
        };
        compare(&run(&disturb, &what).await, &what);
    }
    calm
}

async fn run_scenario(
    api: &Api,
    make: &dyn Fn(Env) -> Arc<dyn Component>,
    objects: &[Value],
    steps: &[Step<'_>],
    what: &str,
) {
    for object in objects {
        api.put(object.clone());
    }
    let (tasks, stop) = (Tasks::new("harness"), Stop::new());
    let client = Client::new(api.transport(), "harness");
    let bystander = Client::new(api.bystander(), "harness");
    let informers = Informers::new(client.clone(), tasks.clone(), stop.clone());
    let recorder = Recorder::new(bystander, &tasks, stop.clone(), Arc::new(api.clock()), "harness", "");
    let component = make(Env { api: api.clone(), client, informers, random: Random::from_seed(2), recorder });
    tasks.spawn("component", component.clone().run(stop.clone()));
    rest(api, &*component, what).await;
    for step in steps {
        match step {
            Step::Do(change) => change(api),
            Step::UntilUnchanged(change) => {
                let mut rounds = 0;
                while change(api) {
                    rest(api, &*component, what).await;
                    rounds += 1;
                    assert!(rounds < RESTLESS_MAX, "a step goes on changing the cluster, {what}");
                }
            }
            Step::Wait(time) => tokio::time::sleep(*time).await,
        }
        rest(api, &*component, what).await;
    }
    stop.stop();
    tasks.join().await;
}

/// Waits until nothing happens any more.
async fn rest(api: &Api, component: &dyn Component, what: &str) {
    for _ in 0..RESTLESS_MAX {
        let before = (api.revision(), api.writes());
        tokio::time::sleep(REST).await;
        if before == (api.revision(), api.writes()) && component.is_idle() {
            return;
        }
    }
    let all = pretty(&normalised(api));
    panic!("the component does not come to rest, {what}; the cluster is now {all}");
}

/// All objects but events, without what differs from run to run.
fn normalised(api: &Api) -> Vec<Value> {
    let objects: Vec<Value> = api.all().into_iter().filter(|object| object["kind"] != "Event").collect();
    let names: Vec<(String, String)> = objects.iter().flat_map(aliases).collect();
    let mut objects: Vec<Value> = objects.into_iter().map(|object| normalise(object, &names)).collect();
    objects.sort_by_cached_key(|object| {
        let meta = &object["metadata"];
        json!([object["kind"], meta["namespace"], meta["name"], object]).to_string()
    });
    objects
}

/// What stands for an object's uid and its generated name.
fn aliases(object: &Value) -> Vec<(String, String)> {
    let meta = &object["metadata"];
    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    let alias = match meta["generateName"].as_str() {
        Some(prefix) => format!("{prefix}*"),
        None => text("name"),
    };
    let mut aliases = vec![(text("uid"), format!("uid of {} {alias}", object["kind"].as_str().unwrap_or_default()))];
    if alias != text("name") {
        aliases.push((text("name"), alias));
    }
    aliases
}

fn normalise(value: Value, names: &[(String, String)]) -> Value {
    match value {
        Value::Object(fields) => {
            let mut kept = serde_json::Map::new();
            let fields = fields.into_iter().filter(|(name, _)| name != "resourceVersion");
            let mut fields: Vec<(String, Value)> = fields.collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            kept.extend(fields.into_iter().map(|(name, value)| (name, normalise(value, names))));
            Value::Object(kept)
        }
        Value::Array(items) => items.into_iter().map(|item| normalise(item, names)).collect(),
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => "TIME".into(),
        Value::String(text) if text.starts_with(CERTIFICATE) => "CERTIFICATE".into(),
        Value::String(text) if text.starts_with(TOKEN) => "TOKEN".into(),
        Value::String(text) => match names.iter().find(|(name, _)| *name == text) {
            Some((_, alias)) => alias.as_str().into(),
            None => without_generated(text, names).into(),
        },
        other => other,
    }
}

/// A text, such as a message, with generated names in it told by their prefix.
fn without_generated(text: String, names: &[(String, String)]) -> String {
    let generated = names.iter().filter(|(_, alias)| alias.ends_with('*') && !alias.starts_with("uid of "));
    generated.fold(text, |text, (name, alias)| if text.contains(name) { text.replace(name, alias) } else { text })
}

/// The lines that only one of two texts has.
fn difference(want: &str, got: &str) -> String {
    let only = |sign: &str, a: &str, b: &str| {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    let lines = only("-", want, got) + &only("+", got, want);
    if lines.is_empty() { format!("- {want}\n+ {got}") } else { lines }
}

fn pretty(objects: &[Value]) -> String {
    let lines: Vec<String> = objects.iter().map(|object| format!("{object:#}")).collect();
    lines.join("\n")
}
