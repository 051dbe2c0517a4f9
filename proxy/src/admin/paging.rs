//! A page of what a search finds, so that no answer grows with the cluster.

use serde::{Deserialize, Serialize};

/// What a page may hold.
const PAGE_SIZE: usize = 50;

/// `?search=&page=`
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Paging {
    /// What a name must contain, in whatever case.
    #[serde(default)]
    pub(super) search: String,
    /// From zero; the last page stands for all beyond it.
    #[serde(default)]
    pub(super) page: usize,
}

/// A page of rows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Page<T> {
    /// Rows that the search finds.
    pub(super) total: usize,
    /// The page that this is, from zero.
    pub(super) page: usize,
    pub(super) pages: usize,
    pub(super) rows: Vec<T>,
}

// === impl Paging ===

impl Paging {
    /// The names that are searched for, all where nothing is.
    pub(super) fn finder(&self) -> impl Fn(&str) -> bool {
        let wanted = self.search.trim().to_lowercase();
        move |name| wanted.is_empty() || name.to_lowercase().contains(&wanted)
    }

    /// The page of `found`; only its rows are made.
    pub(super) fn of<T, U>(&self, found: Vec<T>, row: impl Fn(T) -> U) -> Page<U> {
        let pages = found.len().div_ceil(PAGE_SIZE).max(1);
        let page = self.page.min(pages - 1);
        Page {
            total: found.len(),
            page,
            pages,
            rows: found.into_iter().skip(page * PAGE_SIZE).take(PAGE_SIZE).map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_names_make_pages() {
        let names: Vec<String> = (0..10_000).map(|number| format!("Collection-{number}")).collect();
        let paging = Paging { search: " collection-99 ".to_owned(), page: 1 };
        let finds = paging.finder();
        let found: Vec<&String> = names.iter().filter(|name| finds(name)).collect();
        let page = paging.of(found, String::as_str);
        assert_eq!((page.total, page.page, page.pages, page.rows.len()), (111, 1, 3, 50));

        let beyond = Paging { search: String::new(), page: usize::MAX }.of(names, |name| name);
        assert_eq!((beyond.page, beyond.rows.len()), (199, 50));
        let nothing = Paging::default().of(Vec::<u8>::new(), |row| row);
        assert_eq!((nothing.pages, nothing.rows.len()), (1, 0));
    }
}
