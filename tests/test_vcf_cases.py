"""What VCFs in the wild have in them: each case is read by both readers alike, or is a clear error of each."""

import gzip

import pytest
from test_genomes import FORMAT, HEADER, bgzip, both, vcf

from definetti_np import GenomeFileError, read_haplotypes
from definetti_np.genomes.bgzip import END_OF_BGZIP

GOOD = "chr1 5 A C 0|1 1|1 0|0"
ALLELES = [0, 1, 1, 1, 0, 0]
RECORD = "chr1\t9\t.\tA\tC\t.\tPASS\t.\tGT\t0|1\t1|1\t0|0\n"
BGZIP = bgzip(vcf(GOOD).encode())


# Each is a name, a file, and what is read: alleles by POS, and words of the report.
READ = [
    ("line ends of Windows", vcf(GOOD, "chr1 9 A C 0|1 1|1 0|0").replace("\n", "\r\n"), {5: ALLELES, 9: ALLELES}, ""),
    ("a spanning deletion", vcf(GOOD, "chr1 9 A * 0|1 1|1 0|0"), {5: ALLELES}, "1 indels or other records"),
    ("a SNP and a spanning deletion", vcf(GOOD, "chr1 9 A C,* 0|1 1|2 0|0"), {5: ALLELES}, "1 multi-allelic"),
    ("a symbolic deletion", vcf(GOOD, "chr1 9 A <DEL> PASS END=20 GT 0|1 1|1 0|0"), {5: ALLELES}, "1 indels or other"),
    ("several bases exchanged", vcf(GOOD, "chr1 9 AC GT 0|1 1|1 0|0"), {5: ALLELES}, "1 indels or other"),
    ("an indel at the SNP", vcf("chr1 5 AT A 0|1 0|0 0|0", GOOD), {5: ALLELES}, "1 indels or other"),
    ("a telomere at POS 0", vcf("chr1 0 A C 0|1 1|1 0|0", GOOD), {5: ALLELES}, "1 indels or other"),
    ("no alternative", vcf(GOOD, "chr1 9 A . 0|0 0|0 0|0"), {5: ALLELES}, "1 without an alternative allele"),
    ("one allele twice", vcf(GOOD, "chr1 9 A a 0|0 0|0 0|1"), {5: ALLELES}, "1 without an alternative allele"),
    ("an unknown reference", vcf(GOOD, "chr1 9 N C 0|1 1|1 0|0"), {5: ALLELES}, "1 of other bases than A, C, G and T"),
    ("an ambiguous base", vcf(GOOD, "chr1 9 A r 0|1 1|1 0|0"), {5: ALLELES}, "1 of other bases than A, C, G and T"),
    ("a missing reference", vcf(GOOD, "chr1 9 . C 0|1 1|1 0|0"), {5: ALLELES}, "1 indels or other records"),
    ("alleles of a simulation", vcf("chr1 5 0 1 0|1 1|1 0|0"), {5: ALLELES}, ""),
    ("blocks of a gVCF", vcf(GOOD, "chr1 6 A <NON_REF> PASS END=8 GT 0/0 0/0 0/0"), {5: ALLELES}, "1 of a gVCF"),
    ("SNPs of a gVCF", vcf(GOOD, "chr1 6 A C,<NON_REF> 0/1 0/0 0/0", "chr1 8 A <*> 0 0 0"),
     {5: ALLELES}, "2 of a gVCF"),
    ("lower case", vcf("chr1 5 a c 0|1 1|1 0|0"), {5: ALLELES}, ""),
    ("two filters", vcf(GOOD, "chr1 9 A C q10;q20 . GT 0|1 1|1 0|0"), {5: ALLELES}, "1 that did not pass a filter"),
    ("no filter applied", vcf("chr1 5 A C . . GT 0|1 1|1 0|0"), {5: ALLELES}, ""),
    ("GT behind DP", vcf(GOOD, "chr1 9 A C PASS . DP:GT 3:0|1 2:1|1 4"), {5: ALLELES, 9: [0, 1, 1, 1, -1, -1]}, ""),
    ("phased half calls", vcf(GOOD, "chr1 9 A C .|1 0|. .|."), {5: ALLELES, 9: [-1, 1, 0, -1, -1, -1]}, ""),
    ("homozygotes without phase", vcf("chr1 5 A C 0|1 1/1 0/0"), {5: ALLELES}, ""),
    ("missing without phase", vcf("chr1 5 A C 0|1 1|1 0|0", "chr1 9 A C ./. . 0|0"),
     {5: ALLELES, 9: [-1] * 4 + [0, 0]}, ""),
    ("haploid missing", vcf("chr1 5 A C 0 1|1 0|0", "chr1 9 A C . 1|1 0|0"),
     {5: [0, 1, 1, 0, 0], 9: [-1, 1, 1, 0, 0]}, ""),
    ("a contig without length", vcf("chr2 5000 A C 0|1 1|1 0|0"), {5000: ALLELES}, ""),
    ("a contig of length 0", vcf(GOOD).replace("length=1000", "length=0"), {5: ALLELES}, ""),
    ("a length in quotes", vcf(GOOD).replace(",length", ',note="x,length=3",length'), {5: ALLELES}, ""),
    ("two lengths of a contig", vcf(GOOD).replace("##contig=<ID=chr2", "##contig=<ID=chr1,length=3"),
     {5: ALLELES}, ""),
    ("no end of the last line", vcf(GOOD)[:-1], {5: ALLELES}, ""),
    ("fields that are left out at the end", vcf("chr1 5 A C PASS . GT:DP 0|1 1|1:3 0|0"), {5: ALLELES}, ""),
    ("a contig that no line declares", vcf("chr7 5 A C 0|1 1|1 0|0"), {5: ALLELES}, ""),
    ("long lines", vcf(f"chr1 5 A C PASS X={'A' * 3_000_000} GT 0|1 1|1 0|0"), {5: ALLELES}, ""),
    ("bgzip", BGZIP, {5: ALLELES}, ""),
    ("bgzip with one more empty block", BGZIP + END_OF_BGZIP, {5: ALLELES}, ""),
    ("two bgzips, one after the other", BGZIP + bgzip(RECORD.encode()), {5: ALLELES, 9: ALLELES}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "report"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_read__by_both_readers_alike(tmp_path, text, expected, report):
    path = tmp_path / "data.vcf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = both(path)
    assert dict(zip((read.positions + 1).tolist(), read.alleles.tolist(), strict=True)) == expected
    assert report in read.report
    assert ("left out" in read.report) == bool(report)


# Each is a name, a file, and what the stream says; "{path}" is the file.
WRONG = [
    ("no first line", vcf(GOOD).split("\n", 1)[1], "{path}, line 1: not a VCF, which begins with ##fileformat=VCF"),
    ("no line of columns", HEADER + FORMAT + RECORD, "{path}, line 8: the line of columns, #CHROM ..., is missing"),
    ("spaces for tabs", vcf(GOOD).replace("\t", " "), "{path}, line 8: the columns must be"),
    ("a sample twice", vcf(GOOD, samples="a b a"), "samples of one name: a"),
    ("half calls without phase", vcf(GOOD, "chr1 9 A C ./1 1|1 0|0"), "line 10: the genotype of sample 'a' is not"),
    ("phase of some", vcf(GOOD, "chr1 9 A C 0|1 0/1 0|0"), "line 10: the genotype of sample 'b' is not phased"),
    ("three alleles", vcf(GOOD, "chr1 9 A C 0|1|1 1|1 0|0"), "line 10: the genotype '0|1|1' of sample 'a' is none of"),
    ("an allele that is not there", vcf(GOOD, "chr1 9 A C 0|2 1|1 0|0"), "line 10: the genotype '0|2' of sample 'a'"),
    ("another ploidy", vcf(GOOD, "chr1 9 A C 0|1 1 0|0"), "line 10: sample 'b' is diploid before and haploid here"),
    ("a site behind the end", vcf(GOOD, "chr1 1001 A C 0|1 1|1 0|0"), "line 10: position 1001 lies behind the end of "
     "the contig, whose length is 1000"),
    ("a position below 0", vcf("chr1 -4 A C 0|1 1|1 0|0"), "line 9: POS must be an integer, got b'-4'"),
    ("a position of words", vcf("chr1 1_0 A C 0|1 1|1 0|0"), "line 9: POS must be an integer, got b'1_0'"),
    ("no genotypes", vcf("chr1 5 A C PASS . DP:GQ 3:4 2 4"), "line 9: it has no genotypes, because FORMAT is 'DP:GQ'"),
    ("an empty genotype", vcf(GOOD).replace("0|0\n", "\n"), "line 9: the genotype '' of sample 'c' is none of"),
    ("a last line that is cut", vcf(GOOD) + RECORD[:-3], "line 10: sample 'c' is diploid before and haploid here"),
    ("only a gVCF", vcf("chr1 5 A C,<NON_REF> 0/1 0/0 0/0"), "left out: 1 of a gVCF (make a VCF of it first"),
    ("gzip that is cut", gzip.compress(vcf(GOOD).encode())[:-9], "damaged or cut short: Compressed file ended"),
    ("bgzip without its end", BGZIP[: -len(END_OF_BGZIP)], "{path}: cut short, because the last block of bgzip"),
    ("gzip that is damaged at its begin", gzip.compress(vcf(GOOD).encode())[:10] + b"\xff" * 99, "{path}: damaged"),
    ("a byte order mark", "\ufeff" + vcf(GOOD), "{path}, line 1: not a VCF, which begins with ##fileformat=VCF"),
    ("a line of a header", vcf(GOOD) + "##x\n" + RECORD, "line 10: a line of a header among the records"),
    ("a line of a header at first", vcf(GOOD).replace("chr1\t5", "##x\nchr1\t5"), "line 9: a line of a header"),
    ("nothing but a contig", vcf() + "chr1", "line 9: 1 columns, where the header has 12; the file may be cut short"),
    ("a line without a contig", vcf(GOOD) + RECORD[4:], "line 10: contig '' after 'chr1'"),
    ("a position of 20 digits", vcf(GOOD, f"chr1 {10**19} A C 0|1 1|1 0|0"), "line 10: POS must be an integer, got"),
    ("phase before the genotype", vcf("chr1 5 A C |0|1 1|1 0|0"), "line 9: the genotype '|0|1' of sample 'a' is none"),
    ("gzip with something behind it", gzip.compress(vcf(GOOD).encode()) + b"garbage", "damaged or cut short"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_read__what_is_wrong_is_said_by_both_readers(tmp_path, text, message):
    path = tmp_path / "data.vcf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GenomeFileError) as caught:
        read_haplotypes(path)
    assert message.format(path=path) in str(caught.value)
    with pytest.raises(GenomeFileError, match=r"data\.vcf"):
        read_haplotypes(path, reader="cyvcf2")


def test_read__empty_lines_are_passed_over_by_the_stream_alone(tmp_path):
    path = tmp_path / "data.vcf"
    path.write_text(f"{vcf(GOOD)}\n{RECORD}\n\n")
    assert read_haplotypes(path).alleles.tolist() == [ALLELES, ALLELES]
    with pytest.raises(GenomeFileError, match=r"data\.vcf, after chr1:5: an empty line; remove it"):
        read_haplotypes(path, reader="cyvcf2")


def test_region__names_of_contigs_are_not_guessed(tmp_path):
    path = tmp_path / "data.vcf"
    path.write_text(vcf(GOOD))
    with pytest.raises(GenomeFileError, match=r"data\.vcf: there is no contig '1'; the file has chr1, chr2"):
        read_haplotypes(path, region="1:1-100")
