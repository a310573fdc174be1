// German. The keys are the English texts of the source.
export default {
  Jobs: "Jobs",
};
