//! Values against schemas.

use super::{Bound, Id, Keyword, Properties, Schemas, Size, Types};
use crate::json::{self, Json};
use crate::place::escape;
use serde_json::Number;
use std::borrow::Cow;
use std::cmp::Ordering;

/// What is wrong with a part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Of the part: a JSON Pointer, cut where it is too long.
    pub(crate) pointer: String,
    pub(crate) message: String,
}

/// Bytes of a pointer that is told: it has names that a client chose.
const POINTER: usize = 200;

/// Schemas one within the other: 32 KiB of stack have to do.
const DEEPEST: usize = 128;

/// Where in a value one is.
struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Whole,
    Name(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    const WHOLE: At<'static> = At { parent: None, step: Step::Whole };

    fn within(&'a self, step: Step<'a>) -> At<'a> {
        At { parent: Some(self), step }
    }

    fn pointer(&self) -> String {
        let mut steps = Vec::new();
        let mut at = Some(self);
        while let Some(here) = at {
            steps.push(here.step);
            at = here.parent;
        }
        let mut pointer = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Whole => {}
                Step::Name(name) => {
                    pointer.push('/');
                    pointer.push_str(&escape(cut(name, POINTER)));
                }
                Step::Index(index) => pointer.push_str(&format!("/{index}")),
            }
        }
        if pointer.len() > POINTER {
            pointer.truncate(cut(&pointer, POINTER).len());
            pointer.push('…');
        }
        pointer
    }
}

/// The beginning of a text, at most so many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// One value's check: its work, and what it has found.
pub(crate) struct Check<'s> {
    schemas: &'s Schemas,
    /// Uses of a schema on a part of the value that may still be made.
    left: u64,
    depth: usize,
    /// How much is told.
    most: usize,
    found: Vec<Found>,
}

impl<'s> Check<'s> {
    /// What is wrong with `value`, at most `most` things; `bytes` is how long it was. Where alternatives lie within
    /// alternatives a small value can take any time to be judged: the work is bounded by that length.
    pub(crate) fn run(schemas: &'s Schemas, id: Id, value: &Json<'_>, bytes: usize, most: usize) -> Vec<Found> {
        let left = 10_000 + 64 * bytes as u64;
        let mut check = Check { schemas, left, depth: 0, most, found: Vec::new() };
        let fits = check.check(id, value, &At::WHOLE, true);
        if check.left == 0 {
            let message = "it takes too much work to be judged".to_owned();
            return vec![Found { pointer: String::new(), message }];
        }
        if fits {
            return Vec::new();
        }
        if check.found.is_empty() {
            check.tell(&At::WHOLE, true, || "it does not fit".to_owned());
        }
        check.found
    }

    fn tell(&mut self, at: &At<'_>, tells: bool, message: impl FnOnce() -> String) -> bool {
        if tells && self.found.len() < self.most {
            self.found.push(Found { pointer: at.pointer(), message: message() });
        }
        false
    }

    /// Whether nothing more is to be found out once something does not fit.
    fn is_done(&self, tells: bool) -> bool {
        !tells || self.left == 0 || self.found.len() >= self.most
    }

    /// Whether it fits, with what does not where `tells`.
    #[inline(never)]
    fn check(&mut self, id: Id, value: &Json<'_>, at: &At<'_>, tells: bool) -> bool {
        if self.left <= 1 || self.depth >= DEEPEST {
            self.left = 0;
            return false;
        }
        self.left -= 1;
        self.depth += 1;
        let mut fits = true;
        let schemas = self.schemas;
        for keyword in schemas.keywords(id) {
            // What is left over of a value that does not fit says nothing; and a text that is too long, or a list, is not
            // gone through for more.
            if !fits && matches!(keyword, Keyword::Unevaluated { .. } | Keyword::Pattern(_) | Keyword::Unique) {
                continue;
            }
            if !self.keyword(keyword, value, at, tells) {
                fits = false;
                if self.is_done(tells) {
                    break;
                }
            }
        }
        self.depth -= 1;
        fits
    }

    fn spend(&mut self, cost: u64) {
        self.left = self.left.saturating_sub(cost);
    }

    #[inline(never)]
    fn keyword(&mut self, keyword: &Keyword, value: &Json<'_>, at: &At<'_>, tells: bool) -> bool {
        self.spend(cost(keyword, value));
        if self.left == 0 {
            return false;
        }
        match (keyword, value) {
            (Keyword::Ref(id), _) => self.check(*id, value, at, tells),
            (Keyword::AllOf(ids), _) => self.all(ids, value, at, tells),
            (Keyword::AnyOf(ids), _) => {
                ids.iter().any(|id| self.check(*id, value, at, false))
                    || self.tell(at, tells, || "it fits none of the alternatives".to_owned())
            }
            (Keyword::OneOf(ids), _) => self.one(ids, value, at, tells),
            (Keyword::Not(id), _) => {
                !self.check(*id, value, at, false) || self.tell(at, tells, || "it is what is excluded".to_owned())
            }
            (Keyword::If { condition, then, otherwise }, _) => {
                let next = if self.check(*condition, value, at, false) { then } else { otherwise };
                next.is_none_or(|id| self.check(id, value, at, tells))
            }
            (Keyword::Unevaluated { what: Size::Object, owner, rest }, Json::Object(entries)) => {
                let left = self.left_over(*owner, value, entries.len());
                let entries = left.filter_map(|index| entries.get(index));
                self.each(entries.map(|(name, value)| (Step::Name(name), (*rest, value))), at, tells)
            }
            (Keyword::Unevaluated { what: Size::List, owner, rest }, Json::List(values)) => {
                let left = self.left_over(*owner, value, values.len());
                let elements = left.filter_map(|index| Some((Step::Index(index), (*rest, values.get(index)?))));
                self.each(elements, at, tells)
            }
            (Keyword::Properties(properties), Json::Object(entries)) => self.properties(properties, entries, at, tells),
            (Keyword::Required(names), Json::Object(_)) => self.have(names, value, at, tells),
            (Keyword::DependentRequired(all), Json::Object(_)) => {
                let asked = all.iter().filter(|(name, _)| value.get(name).is_some());
                asked.fold(true, |fits, (_, names)| self.have(names, value, at, tells) && fits)
            }
            (Keyword::PropertyNames(id), Json::Object(entries)) => self.names(*id, entries, at, tells),
            (Keyword::DependentSchemas(schemas), Json::Object(_)) => {
                let ids = schemas.iter().filter(|(name, _)| value.get(name).is_some()).map(|(_, id)| *id);
                self.all(&ids.collect::<Vec<_>>(), value, at, tells)
            }
            (Keyword::PrefixItems(ids), Json::List(values)) => {
                let elements = ids.iter().copied().zip(values).enumerate();
                self.each(elements.map(|(index, element)| (Step::Index(index), element)), at, tells)
            }
            (Keyword::Items(behind, id), Json::List(values)) => {
                let elements = values.iter().enumerate().skip(*behind);
                self.each(elements.map(|(index, value)| (Step::Index(index), (*id, value))), at, tells)
            }
            (Keyword::Contains { schema, least, most }, Json::List(values)) => {
                let fitting = values.iter().filter(|value| self.check(*schema, value, at, false)).count() as u64;
                (fitting >= *least && most.is_none_or(|most| fitting <= most))
                    || self.tell(at, tells, || "it has too few or too many elements of a kind".to_owned())
            }
            _ => match plainly_wrong(keyword, value) {
                None => true,
                Some(message) => self.tell(at, tells, || message.words()),
            },
        }
    }

    fn all(&mut self, ids: &[Id], value: &Json<'_>, at: &At<'_>, tells: bool) -> bool {
        let mut fits = true;
        for id in ids {
            if !self.check(*id, value, at, tells) {
                fits = false;
                if self.is_done(tells) {
                    break;
                }
            }
        }
        fits
    }

    fn one(&mut self, ids: &[Id], value: &Json<'_>, at: &At<'_>, tells: bool) -> bool {
        let mut fitting = 0;
        for id in ids {
            if self.check(*id, value, at, false) {
                fitting += 1;
                if fitting > 1 {
                    return self.tell(at, tells, || "it fits more than one of the alternatives".to_owned());
                }
            }
        }
        fitting == 1 || self.tell(at, tells, || "it fits none of the alternatives".to_owned())
    }

    fn each<'v, 'b: 'v>(
        &mut self,
        parts: impl Iterator<Item = (Step<'v>, (Id, &'v Json<'b>))>,
        at: &At<'_>,
        tells: bool,
    ) -> bool {
        let mut fits = true;
        for (step, (id, value)) in parts {
            if !self.check(id, value, &at.within(step), tells) {
                fits = false;
                if self.is_done(tells) {
                    break;
                }
            }
        }
        fits
    }

    /// The places of the properties or elements that nothing else in a schema is about. It fits the value as far as it was
    /// checked.
    #[inline(never)]
    fn left_over(&mut self, owner: Id, value: &Json<'_>, count: usize) -> impl Iterator<Item = usize> + use<> {
        let mut seen = vec![false; count];
        self.look(owner, value, &mut seen, true);
        seen.into_iter().enumerate().filter(|(_, seen)| !seen).map(|(index, _)| index)
    }

    /// Marks what a schema that fits is about, as the schemas within it that fit are.
    #[inline(never)]
    fn look(&mut self, id: Id, value: &Json<'_>, seen: &mut [bool], is_owner: bool) {
        if self.left <= 1 || self.depth >= DEEPEST {
            self.left = 0;
            return;
        }
        self.left -= 1;
        self.depth += 1;
        let schemas = self.schemas;
        for keyword in schemas.keywords(id) {
            match (keyword, value) {
                (Keyword::Ref(id), _) => self.look(*id, value, seen, false),
                (Keyword::AllOf(ids), _) => ids.iter().for_each(|id| self.look(*id, value, seen, false)),
                (Keyword::AnyOf(ids) | Keyword::OneOf(ids), _) => {
                    for id in ids {
                        if self.check(*id, value, &At::WHOLE, false) {
                            self.look(*id, value, seen, false);
                        }
                    }
                }
                (Keyword::If { condition, then, otherwise }, _) => {
                    let fits = self.check(*condition, value, &At::WHOLE, false);
                    let next = if fits { then } else { otherwise };
                    let both = [fits.then_some(*condition), *next];
                    both.into_iter().flatten().for_each(|id| self.look(id, value, seen, false));
                }
                (Keyword::DependentSchemas(schemas), Json::Object(_)) => {
                    for (_, id) in schemas.iter().filter(|(name, _)| value.get(name).is_some()) {
                        self.look(*id, value, seen, false);
                    }
                }
                (Keyword::Properties(properties), Json::Object(entries)) => {
                    self.spend(cost(keyword, value));
                    for (seen, (name, _)) in seen.iter_mut().zip(entries) {
                        *seen |= properties.is_about(name);
                    }
                }
                (Keyword::Unevaluated { what: Size::Object, .. }, Json::Object(_))
                | (Keyword::Unevaluated { what: Size::List, .. }, Json::List(_))
                    if !is_owner =>
                {
                    seen.fill(true);
                }
                (Keyword::PrefixItems(ids), Json::List(_)) => {
                    seen.iter_mut().take(ids.len()).for_each(|seen| *seen = true);
                }
                (Keyword::Items(behind, _), Json::List(_)) => {
                    seen.iter_mut().skip(*behind).for_each(|seen| *seen = true);
                }
                (Keyword::Contains { schema, .. }, Json::List(values)) => {
                    for (seen, value) in seen.iter_mut().zip(values) {
                        *seen |= self.check(*schema, value, &At::WHOLE, false);
                    }
                }
                _ => {}
            }
        }
        self.depth -= 1;
    }

    #[inline(never)]
    fn properties(
        &mut self,
        properties: &Properties,
        entries: &[(Cow<'_, str>, Json<'_>)],
        at: &At<'_>,
        tells: bool,
    ) -> bool {
        let mut fits = true;
        for (name, value) in entries {
            let at = at.within(Step::Name(name));
            let mut is_known = false;
            let mut good = true;
            if let Some(id) = properties.named.get(&**name) {
                is_known = true;
                good &= self.check(*id, value, &at, tells);
            }
            for (pattern, id) in &properties.patterns {
                if pattern.is_match(name) {
                    is_known = true;
                    good &= self.check(*id, value, &at, tells);
                }
            }
            if let Some(rest) = properties.rest
                && !is_known
            {
                good &= self.check(rest, value, &at, tells);
            }
            if !good {
                fits = false;
                if self.is_done(tells) {
                    break;
                }
            }
        }
        fits
    }

    fn have(&mut self, names: &[String], value: &Json<'_>, at: &At<'_>, tells: bool) -> bool {
        let missing = names.iter().filter(|name| value.get(name).is_none());
        missing.fold(true, |_, name| self.tell(at, tells, || format!("`{name}` is missing")))
    }

    fn names(&mut self, id: Id, entries: &[(Cow<'_, str>, Json<'_>)], at: &At<'_>, tells: bool) -> bool {
        let good = entries.iter().all(|(name, _)| {
            let name = Json::Text(Cow::Borrowed(&**name));
            self.check(id, &name, at, false)
        });
        good || self.tell(at, tells, || "the name of one of its properties is not allowed".to_owned())
    }
}

/// What a keyword costs beside the schemas that it asks: it goes through a text, or what is in an object or a list.
#[inline(never)]
fn cost(keyword: &Keyword, value: &Json<'_>) -> u64 {
    match (keyword, value) {
        (
            Keyword::Pattern(_) | Keyword::Format(_) | Keyword::AtLeast(Size::Text, _) | Keyword::AtMost(Size::Text, _),
            Json::Text(text),
        ) => text.len() as u64 / json::PIECE,
        (Keyword::Unique, Json::List(_)) => value.weight(),
        (Keyword::Properties(_) | Keyword::PropertyNames(_), Json::Object(entries)) => {
            entries.iter().map(|(name, _)| 1 + name.len() as u64 / json::PIECE).sum()
        }
        (Keyword::Unevaluated { .. }, Json::Object(entries)) => entries.len() as u64,
        (Keyword::Unevaluated { .. }, Json::List(values)) => values.len() as u64,
        _ => 0,
    }
}

/// What a keyword that asks no other schema has against a value.
enum Wrong<'k> {
    NotAllowed,
    Type(Types),
    Enum(bool),
    Bound(Bound, &'k Number),
    MultipleOf(&'k Number),
    AtLeast(Size, u64),
    AtMost(Size, u64),
    Pattern,
    Format(super::Format),
    Twice,
}

#[inline(never)]
fn plainly_wrong<'k>(keyword: &'k Keyword, value: &Json<'_>) -> Option<Wrong<'k>> {
    let (is_wrong, wrong) = match (keyword, value) {
        (Keyword::Nothing, _) => (true, Wrong::NotAllowed),
        (Keyword::Type(types), _) => (!types.has(Types::of(value)), Wrong::Type(*types)),
        (Keyword::Enum(values), _) => (!values.iter().any(|one| one.is(value)), Wrong::Enum(values.len() == 1)),
        (Keyword::Bound(bound, limit), Json::Number(number)) => {
            (!bound.fits(json::compare(number, limit)), Wrong::Bound(*bound, limit))
        }
        (Keyword::MultipleOf(of), Json::Number(number)) => (!json::is_multiple(number, of), Wrong::MultipleOf(of)),
        (Keyword::AtLeast(size, least), _) => {
            (size.of(value).is_some_and(|count| count < *least), Wrong::AtLeast(*size, *least))
        }
        (Keyword::AtMost(size, most), _) => {
            (size.of(value).is_some_and(|count| count > *most), Wrong::AtMost(*size, *most))
        }
        (Keyword::Pattern(pattern), Json::Text(text)) => (!pattern.is_match(text), Wrong::Pattern),
        (Keyword::Format(format), _) => (!format.fits(value), Wrong::Format(*format)),
        (Keyword::Unique, Json::List(values)) => (has_twins(values), Wrong::Twice),
        _ => return None,
    };
    is_wrong.then_some(wrong)
}

impl Properties {
    fn is_about(&self, name: &str) -> bool {
        self.is_open
            || self.rest.is_some()
            || self.named.contains_key(name)
            || self.patterns.iter().any(|(pattern, _)| pattern.is_match(name))
    }
}

impl Bound {
    /// By how a number stands to the limit.
    fn fits(self, order: Ordering) -> bool {
        match self {
            Bound::Least => order.is_ge(),
            Bound::Above => order.is_gt(),
            Bound::Most => order.is_le(),
            Bound::Below => order.is_lt(),
        }
    }
}

/// Sorted first: each with each would take the square of their number.
fn has_twins(values: &[Json<'_>]) -> bool {
    let mut sorted: Vec<&Json<'_>> = values.iter().collect();
    sorted.sort_unstable_by(|one, other| one.order(other));
    sorted.windows(2).any(|pair| matches!(pair, [one, other] if one.is(other)))
}

impl Size {
    /// None where the value has no such size.
    fn of(self, value: &Json<'_>) -> Option<u64> {
        match (self, value) {
            (Size::Text, Json::Text(text)) => Some(text.chars().count() as u64),
            (Size::List, Json::List(values)) => Some(values.len() as u64),
            (Size::Object, Json::Object(entries)) => Some(entries.len() as u64),
            _ => None,
        }
    }

    fn words(self, count: u64) -> String {
        match (self, count) {
            (Size::Text, 1) => "1 character".to_owned(),
            (Size::Text, _) => format!("{count} characters"),
            (Size::List, 1) => "1 element".to_owned(),
            (Size::List, _) => format!("{count} elements"),
            (Size::Object, 1) => "1 property".to_owned(),
            (Size::Object, _) => format!("{count} properties"),
        }
    }
}

impl Wrong<'_> {
    /// It repeats the schema, never the value.
    fn words(&self) -> String {
        match self {
            Wrong::NotAllowed => "it is not allowed here".to_owned(),
            Wrong::Type(types) => format!("it has to be {}", types.words()),
            Wrong::Enum(true) => "it is not the value that it has to be".to_owned(),
            Wrong::Enum(false) => "it is none of the values that are allowed".to_owned(),
            Wrong::Bound(bound, limit) => match bound {
                Bound::Least => format!("it is below {limit}"),
                Bound::Above => format!("it is not above {limit}"),
                Bound::Most => format!("it is above {limit}"),
                Bound::Below => format!("it is not below {limit}"),
            },
            Wrong::MultipleOf(of) => format!("it is not a multiple of {of}"),
            Wrong::AtLeast(size, least) => format!("it has fewer than {}", size.words(*least)),
            Wrong::AtMost(size, most) => format!("it has more than {}", size.words(*most)),
            Wrong::Pattern => "it does not match the pattern".to_owned(),
            Wrong::Format(format) => format!("it is not {}", format.words()),
            Wrong::Twice => "it has an element twice".to_owned(),
        }
    }
}
