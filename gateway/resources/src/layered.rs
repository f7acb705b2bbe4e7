//! Settings that lie over others: a Gateway's over its class's, a route's policy over the Gateway's.

/// Field by field, what is set above wins over what is below.
pub trait Layered {
    /// Takes from `lower` each field that is not set here.
    fn fill_from(&mut self, lower: &Self);
}

impl<T: Layered + Clone> Layered for Option<T> {
    fn fill_from(&mut self, lower: &Self) {
        match (self.as_mut(), lower) {
            (Some(upper), Some(lower)) => upper.fill_from(lower),
            (None, Some(_)) => self.clone_from(lower),
            (_, None) => {}
        }
    }
}

/// Names each field once: those that are replaced as a whole, then those that are layered themselves.
macro_rules! layered {
    ($type:ty { $($field:ident),* $(,)? ; $($nested:ident),* $(,)? }) => {
        impl $crate::Layered for $type {
            fn fill_from(&mut self, lower: &Self) {
                // A field that is forgotten here does not compile.
                let Self { $($field: _,)* $($nested: _,)* } = lower;
                $(if self.$field.is_none() { self.$field.clone_from(&lower.$field); })*
                $($crate::Layered::fill_from(&mut self.$nested, &lower.$nested);)*
            }
        }
    };
}
pub(crate) use layered;
