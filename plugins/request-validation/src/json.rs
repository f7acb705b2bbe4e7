//! JSON as a client sends it, read so that no other reader can see something else in it: an object that has a name twice is
//! refused. Texts without escapes are those of the body itself.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Bytes of a text that take about as long as a value that is none.
pub(crate) const PIECE: u64 = 16;

/// A value. Objects are sorted by name.
#[derive(Clone, Debug)]
pub(crate) enum Json<'b> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'b, str>),
    List(Vec<Json<'b>>),
    Object(Vec<(Cow<'b, str>, Json<'b>)>),
}

/// What is said of a body that can't be read.
pub(crate) fn parse(text: &[u8]) -> Result<Json<'_>, String> {
    if kit::json::nested(text) > kit::json::DEPTH {
        return Err(kit::json::Error::TooDeep.to_string());
    }
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Data => format!("an object has a name twice: line {line}, column {column}"),
            _ => kit::json::Error::Syntax { line, column }.to_string(),
        }
    })
}

impl<'b> Json<'b> {
    /// The value of an object's name.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'b>> {
        let Json::Object(entries) = self else { return None };
        let at = entries.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        entries.get(at).map(|(_, value)| value)
    }

    /// An object of these; none where a name is there twice.
    pub(crate) fn object(mut entries: Vec<(Cow<'b, str>, Json<'b>)>) -> Option<Json<'b>> {
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let twice = entries.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other));
        (!twice).then_some(Json::Object(entries))
    }

    /// As JSON Schema compares: `1` and `1.0` are the same.
    pub(crate) fn order(&self, other: &Json<'_>) -> Ordering {
        match (self, other) {
            (Json::Bool(one), Json::Bool(other)) => one.cmp(other),
            (Json::Number(one), Json::Number(other)) => compare(one, other),
            (Json::Text(one), Json::Text(other)) => one.cmp(other),
            (Json::List(one), Json::List(other)) => one.len().cmp(&other.len()).then_with(|| {
                let unequal = one.iter().zip(other).map(|(one, other)| one.order(other)).find(|order| order.is_ne());
                unequal.unwrap_or(Ordering::Equal)
            }),
            (Json::Object(one), Json::Object(other)) => one.len().cmp(&other.len()).then_with(|| {
                let pairs = one.iter().zip(other);
                let mut orders =
                    pairs.map(|((key, value), (other_key, other))| key.cmp(other_key).then_with(|| value.order(other)));
                orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
            }),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// How much there is to go through: values, names, and pieces of texts.
    pub(crate) fn weight(&self) -> u64 {
        let text = |text: &str| 1 + text.len() as u64 / PIECE;
        match self {
            Json::Text(value) => text(value),
            Json::List(values) => values.iter().map(Json::weight).fold(1, u64::saturating_add),
            Json::Object(entries) => {
                let entries = entries.iter().map(|(name, value)| text(name) + value.weight());
                entries.fold(1, u64::saturating_add)
            }
            _ => 1,
        }
    }

    pub(crate) fn is(&self, other: &Json<'_>) -> bool {
        self.order(other).is_eq()
    }

    fn rank(&self) -> u8 {
        match self {
            Json::Null => 0,
            Json::Bool(_) => 1,
            Json::Number(_) => 2,
            Json::Text(_) => 3,
            Json::List(_) => 4,
            Json::Object(_) => 5,
        }
    }
}

/// Values of a configuration, where later names have replaced earlier ones.
impl From<&Value> for Json<'static> {
    fn from(value: &Value) -> Json<'static> {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.clone()),
            Value::String(text) => Json::Text(Cow::Owned(text.clone())),
            Value::Array(values) => Json::List(values.iter().map(Json::from).collect()),
            Value::Object(entries) => {
                let entries = entries.iter().map(|(name, value)| (Cow::Owned(name.clone()), Json::from(value)));
                Json::object(entries.collect()).unwrap_or(Json::Null)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        // The parser has refused what is not finite.
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Json<'de>>()? {
            // Names are texts; the parser has refused others.
            let Json::Text(name) = key else { continue };
            entries.push((name, map.next_value()?));
        }
        Json::object(entries).ok_or_else(|| A::Error::custom("a name twice"))
    }
}

/// A whole number, written as one or as `1.0` or `1e3`; none beyond what is told apart exactly.
pub(crate) fn whole(number: &Number) -> Option<i128> {
    const EXACT: f64 = (1u128 << 100) as f64;
    if let Some(integer) = number.as_i64() {
        return Some(integer.into());
    }
    if let Some(natural) = number.as_u64() {
        return Some(natural.into());
    }
    number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT).map(|float| float as i128)
}

/// Whether it is whole, however large.
pub(crate) fn is_whole(number: &Number) -> bool {
    number.as_f64().is_some_and(|float| float.fract() == 0.0) || whole(number).is_some()
}

pub(crate) fn compare(one: &Number, other: &Number) -> Ordering {
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => {
            let [one, other] = [one, other].map(|number| number.as_f64().unwrap_or_default());
            one.partial_cmp(&other).unwrap_or(Ordering::Equal)
        }
    }
}

/// Whether it is a multiple, as exactly as the two can be held: 19.99 is one of 0.01.
pub(crate) fn is_multiple(number: &Number, of: &Number) -> bool {
    if let (Some(number), Some(of)) = (whole(number), whole(of)) {
        return of != 0 && number % of == 0;
    }
    let is_exact = whole(of).is_some();
    let [number, of] = [number, of].map(|number| number.as_f64().unwrap_or_default());
    let times = number / of;
    // The remainder of two doubles is exact. A fraction need not be one of them, and then neither is the quotient.
    number % of == 0.0
        || !is_exact && times.is_finite() && (times - times.round()).abs() <= times.abs() * 4.0 * f64::EPSILON
}
