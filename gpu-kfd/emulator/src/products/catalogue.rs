//! The products that a node can be, in one table.
//!
//! Adding a product is a file with its [`Chip`] and [`Product`], and a line in `PRODUCTS`.

use super::chip::{Chip, XgmiPath};
use super::{gfx90a, gfx90c, gfx942};

/// A product: a kind of machine. Which GPUs, how many at most, and how they are joined.
#[derive(Debug)]
pub struct Product {
    /// Name to ask for it.
    pub name: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// The GPU.
    pub chip: &'static Chip,
    /// Most GPUs in a machine; any number from 1 on works.
    pub gpus_max: u32,
    /// CPU (NUMA) nodes of the machine.
    pub cpu_nodes: u32,
    /// Cores of a CPU node.
    pub cores_per_cpu_node: u32,
    /// System memory of a CPU node.
    pub memory_per_cpu_node_bytes: u64,
    /// Highest clock of the CPUs.
    pub cpu_clock_mhz: u32,
    /// PCI bus of each GPU, in the driver's order.
    pub buses: &'static [u8],
    /// GPUs of an XGMI hive; 0 if there is none.
    pub hive_gpus: u32,
    /// How the GPUs with these two numbers reach each other inside a hive.
    pub xgmi: Option<fn(u32, u32) -> XgmiPath>,
}

impl PartialEq for Product {
    /// A product is its place in the table.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Product {}

static PRODUCTS: [&Product; 4] =
    [&gfx90a::MI250X, &gfx90a::MI210, &gfx942::MI300X, &gfx90c::RENOIR];

/// What a listing of the products says of one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProductSummary {
    /// Name to ask for it.
    pub name: &'static str,
    /// The product's name.
    pub product: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// Fewest GPUs.
    pub gpus_min: u32,
    /// Most GPUs.
    pub gpus_max: u32,
    /// CPU (NUMA) nodes, if not asked for otherwise.
    pub cpu_nodes: u32,
    /// Video memory of a GPU, if not asked for otherwise.
    pub vram_bytes: u64,
}

impl Product {
    /// All products, in the order in which to list them.
    #[must_use]
    pub fn all() -> &'static [&'static Self] {
        &PRODUCTS
    }

    /// The product with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PRODUCTS.into_iter().find(|product| product.name == name)
    }

    /// What a listing says of this product.
    #[must_use]
    pub fn summary(&self) -> ProductSummary {
        ProductSummary {
            name: self.name,
            product: self.chip.marketing_name,
            description: self.description,
            gpus_min: 1,
            gpus_max: self.gpus_max,
            cpu_nodes: self.cpu_nodes,
            vram_bytes: self.chip.vram.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Product;

    #[test]
    fn products_have_names_of_their_own() {
        for product in Product::all() {
            assert_eq!(Product::by_name(product.name), Some(*product));
            let same = Product::all().iter().filter(|other| other.name == product.name).count();
            assert_eq!(same, 1, "{} is in the table more than once", product.name);
        }
        assert_eq!(Product::by_name("gfx900"), None);
    }

    #[test]
    fn every_gpu_of_a_product_has_a_bus() {
        for product in Product::all() {
            assert_eq!(product.buses.len() as u32, product.gpus_max, "{}", product.name);
        }
    }

    #[test]
    fn listing_is_json_that_says_name_description_and_gpu_counts() {
        let summaries: Vec<_> = Product::all().iter().map(|product| product.summary()).collect();
        let json = serde_json::to_value(summaries).expect("plain data");
        let first = &json[0];
        assert_eq!(first["name"], "gfx90a");
        assert_eq!(first["product"], "AMD Instinct MI250X");
        assert_eq!((&first["gpus_min"], &first["gpus_max"]), (&1.into(), &8.into()));
        assert!(first["description"].as_str().is_some_and(|text| text.contains("XGMI")));
        assert_eq!(json.as_array().map(Vec::len), Some(Product::all().len()));
    }
}
